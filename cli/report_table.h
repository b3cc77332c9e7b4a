// Owns how a report and a quality look on a terminal.
#pragma once

#include <optional>
#include <string>

#include "verify/report.h"

namespace llmc {

std::string format_products(const ProductSpeeds& products);
std::string format_quality(const Quality& quality, const std::optional<OracleAgreement>& oracle);
/// Sizes by role, totals, quality, time and memory, gates.
std::string format_report(const Report& report, bool colour);

}  // namespace llmc
