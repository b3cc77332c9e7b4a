#include "core/tensor.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "core/error.h"

namespace llmc {

std::string to_string(const Shape& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

int64_t element_count(const Shape& shape, const std::string& where) {
  int64_t count = 1;
  for (int64_t dimension : shape)
    if (dimension < 0 || __builtin_mul_overflow(count, dimension, &count))
      throw Error(ErrorKind::input, fmt::format("{}: shape {} is not a possible size", where, to_string(shape)));
  return count;
}

}  // namespace llmc
