#include "calib/bundled_text.h"

#include <cstddef>

extern const char llmc_embedded_held_out_text[];
extern const std::size_t llmc_embedded_held_out_text_size;
extern const char llmc_embedded_calibration_text[];
extern const std::size_t llmc_embedded_calibration_text_size;

namespace llmc {

std::string_view bundled_text() { return {llmc_embedded_held_out_text, llmc_embedded_held_out_text_size}; }

std::string_view bundled_calibration_text() { return {llmc_embedded_calibration_text, llmc_embedded_calibration_text_size}; }

}  // namespace llmc
