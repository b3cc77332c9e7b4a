// Owns the declarations of the observers; each is defined in the file of its name.
#pragma once

#include <memory>

#include "calib/observer.h"

namespace llmc {

std::unique_ptr<Observer> make_min_max(const ObserverOptions& options);
std::unique_ptr<Observer> make_moving_average(const ObserverOptions& options);
std::unique_ptr<Observer> make_percentile(const ObserverOptions& options);
std::unique_ptr<Observer> make_mse(const ObserverOptions& options);
std::unique_ptr<Observer> make_entropy(const ObserverOptions& options);

}  // namespace llmc
