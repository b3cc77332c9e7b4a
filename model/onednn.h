// Owns what every use of oneDNN shares: one engine, one stream and one thread for each thread that calls, and products of one shape.
#pragma once

#include <dnnl.hpp>
#include <omp.h>

#include <cstdint>
#include <string>

namespace llmc::onednn {

using Tag = dnnl::memory::format_tag;
using Type = dnnl::memory::data_type;

/// oneDNN runs on OpenMP, whose number of threads is a setting of each thread that calls it: one, since llmc cuts the
/// work itself. To be called before anything of oneDNN is made or run on a thread.
inline void use_one_thread() {
  thread_local const bool is_set = (omp_set_num_threads(1), true);
  static_cast<void>(is_set);
}

inline const dnnl::engine& cpu() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

inline dnnl::stream& cpu_stream() {
  thread_local dnnl::stream stream(cpu());
  return stream;
}

inline dnnl::memory borrow(const dnnl::memory::desc& description, const void* data) { return {description, cpu(), const_cast<void*>(data)}; }

/// Types of y = x · W + b.
struct ProductTypes {
  Type x = Type::f32;
  Type weight = Type::f32;
  Type y = Type::f32;
};
enum class BiasForm { none, f32 };

/// y [rows, out] = x [rows, in] · W + b, for one number of rows. oneDNN keeps what it compiles, so a shape costs once.
struct Product {
  Product(int64_t rows, int64_t out, int64_t in, BiasForm with_bias, const ProductTypes& types) {
    x = {{rows, in}, types.x, Tag::ab};
    y = {{rows, out}, types.y, Tag::ab};
    if (with_bias == BiasForm::f32) bias = {{1, out}, Type::f32, Tag::ab};
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);  // oneDNN's own belongs to the thread that made the primitive
    const dnnl::matmul::primitive_desc description({x, {{in, out}, types.weight, Tag::any}, bias, y}, attributes, cpu());
    weight = description.weights_desc();
    scratchpad = description.scratchpad_desc();
    kernel = description.impl_info_str();
    primitive = dnnl::matmul(description);
  }
  /// oneDNN's own kernels (brgemm) give a row the same result for any number of rows; its general GEMM does not.
  bool is_uniform() const { return kernel.starts_with("brg"); }

  dnnl::memory::desc x, y, bias, weight, scratchpad;
  std::string kernel;
  dnnl::matmul primitive;
};

}  // namespace llmc::onednn
