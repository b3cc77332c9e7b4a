#ifdef __x86_64__
#include "model/matmul_amx.h"

#include <algorithm>
#include <atomic>

#include "core/parallel.h"
#include "core/pooled_memory.h"
#include "model/amx_blocks.h"
#include "model/kernels.h"

namespace llmc {

using namespace amx;

namespace {

/// Asks for what is to be written soon.
void fetch_block(const MatrixView& y) {
  for (int64_t r = 0; r < y.rows; ++r)
    for (int64_t i = 0; i < y.cols; i += 16) __builtin_prefetch(y.row(r) + i, 1);
}

constexpr float no_bias[block] = {};

/// The part of a matrix that block `r` of its rows and `column` of its columns is.
MatrixView get_block(const MatrixView& y, int64_t r, int64_t column) {
  return y.row_range(r * block, std::min(block, y.rows - r * block)).column_range(column * block, std::min(block, y.cols - column * block));
}

/// A of products in packed form, in memory of this thread.
class PackedRows {
 public:
  /// Still to be filled. Its memory is that of the last one of the same slot.
  template <int slot>
  static PackedRows make(int64_t rows, int64_t cols, int parts) {
    PackedRows result{rows, (cols + depth - 1) / depth, parts};
    const std::span<uint16_t> scratch = thread_scratch<uint16_t, slot>(static_cast<size_t>(result.blocks() * result.block_size() + line));
    result.packed_ = reinterpret_cast<uint16_t*>((reinterpret_cast<uintptr_t>(scratch.data()) + 63) / 64 * 64);
    return result;
  }
  static PackedRows pack(ConstMatrixView a, int parts) {
    const PackedRows result = make<7>(a.rows, a.cols, parts);
    for (int64_t r = 0; r < result.blocks(); ++r) result.fill(r, 0, a.row_range(r * block, result.rows_of(r)));
    return result;
  }

  int64_t rows() const { return rows_; }
  int64_t blocks() const { return count_blocks(rows_); }
  int64_t rows_of(int64_t r) const { return std::min(block, rows_ - r * block); }
  int64_t steps() const { return steps_; }
  const uint16_t* operator[](int64_t r) const { return packed_ + r * block_size(); }
  /// Columns of block r from a step on.
  void fill(int64_t r, int64_t step, ConstMatrixView values) const { pack_rows(values, parts_, packed_ + r * block_size() + step * parts_ * step_size); }
  /// `first` is a multiple of 32.
  PackedRows row_range(int64_t first, int64_t count) const {
    PackedRows result = *this;
    result.rows_ = count;
    result.packed_ += first / block * block_size();
    return result;
  }

 private:
  PackedRows(int64_t rows, int64_t steps, int parts) : rows_(rows), steps_(steps), parts_(parts) {}
  int64_t block_size() const { return steps_ * parts_ * step_size; }

  int64_t rows_, steps_;
  int parts_;
  uint16_t* packed_ = nullptr;
};

/// B [depth, columns] of products with A.
class Factor {
 public:
  Factor(int64_t rows, int64_t columns, int parts, Precision precision)
      : steps_((rows + depth - 1) / depth), columns_(columns), parts_(parts), parts_a_(precision == Precision::f32 ? max_parts : 1), products_(find_products(parts_a_, parts)), packed_(static_cast<size_t>(count_blocks(columns) * panel_size()) * sizeof(uint16_t)) {}

  /// 32 columns in the layout [steps][parts][2 tiles], to be packed before the first product.
  uint16_t* panel(int64_t number) const { return packed_.as<uint16_t>() + number * panel_size(); }
  int64_t panels() const { return count_blocks(columns_); }
  int parts() const { return parts_; }
  int parts_a() const { return parts_a_; }
  /// Rows of A whose packed form stays in the second-level cache (2 MB) while B goes by: 64 to 256.
  int64_t rows_in_cache() const {
    constexpr int64_t in_cache = 384 << 10;  // bf16 numbers
    return std::clamp(in_cache / (steps_ * depth * parts_a_) / block * block, 2 * block, most_blocks * block);
  }

  /// A, of at most rows_in_cache() rows, times `count` panels from `first` on, of the rows of B from `row` on, as many as A has
  /// columns: a multiple of 32. Calls finish(r, panel, sums) with the sums [32, 32] of block r of the rows and of that panel and
  /// the next ones, `together` in all, each sums_distance behind the one before.
  template <int together, typename Begin, typename Finish>
  void multiply(const PackedRows& a, int64_t row, int64_t first, int64_t count, const Begin& begin, const Finish& finish) const {
    alignas(64) float sums[together][most_blocks][block * block];
    // Of one part, so much of B at a time that it stays in the first-level cache (32 KB), or half of it where A has three.
    const int64_t chunk = parts_ > 1 ? steps_ : parts_a_ > 1 ? 8 : 16;
    const int64_t lines = (parts_ * step_size / line + a.blocks() - 1) / a.blocks();  // of the next panels, so that they are there in time
    const Tiles tiles;
    for (int64_t at = first; at < first + count; at += together) {
      for (int64_t i = 0; i < together; ++i) {
        const uint16_t* const b = panel(at + i) + row / depth * parts_ * step_size;
        const uint16_t* next = b + together * panel_size();
        for (int64_t step = 0; step < a.steps(); step += chunk) {
          const int64_t steps = std::min(chunk, a.steps() - step);
          for (int64_t r = 0; r < a.blocks(); ++r, next += steps * lines * line) {
            const bool is_last = i + 1 == together && step + steps == a.steps();
            if (is_last) begin(r, at);
            (a.rows_of(r) > 16 ? products_.whole : products_.few)(a[r] + step * parts_a_ * step_size, b + step * parts_ * step_size, steps, {next, lines}, step == 0, sums[i][r]);
            if (is_last && r > 0) finish(r - 1, at, sums[0][r - 1]);  // the last sums of r are on their way still
          }
        }
      }
      finish(a.blocks() - 1, at, sums[0][a.blocks() - 1]);
    }
  }

  static constexpr int64_t most_blocks = 4 * PackedMatrix::tile_rows / block;
  static constexpr int64_t sums_distance = most_blocks * block * block;

 private:
  int64_t panel_size() const { return steps_ * parts_ * step_size; }

  int64_t steps_, columns_;
  int parts_, parts_a_;
  BlockProducts products_;
  PooledMemory packed_;
};

/// Fills every `every`-th panel, from `from` on, with `out` rows of a weight, and gives its bias as many columns as the panels have.
std::vector<float> pack_weight(const Factor& factor, int64_t out, std::span<const float> bias, const ReadRows& read, int64_t from = 0, int64_t every = 1) {
  parallel_for(count_blocks(out), [&](int64_t panel) { pack_columns(read(panel * block, std::min(block, out - panel * block)), factor.parts(), factor.panel(from + panel * every)); });
  std::vector<float> padded(static_cast<size_t>(count_blocks(out) * block));
  std::ranges::copy(bias, padded.begin());
  return padded;
}

/// Calls body(first, rows) with as many rows as stay in the cache.
template <typename Body>
void for_each_piece(const Factor& factor, int64_t rows, const Body& body) {
  for (int64_t first = 0; first < rows; first += factor.rows_in_cache()) body(first, std::min(factor.rows_in_cache(), rows - first));
}

class AmxMatrix final : public PackedMatrix {
 public:
  AmxMatrix(int64_t out, int64_t in, std::span<const float> bias, Precision precision, int parts, const ReadRows& read) : factor_(in, out, parts, precision), bias_(pack_weight(factor_, out, bias, read)) {}

  int64_t most_rows() const override { return 4 * tile_rows; }

  void apply(ConstMatrixView x, MatrixView y) const override {
    for_each_piece(factor_, x.rows, [&](int64_t first, int64_t rows) { run<finish_block>(PackedRows::pack(x.row_range(first, rows), factor_.parts_a()), y.row_range(first, rows)); });
  }
  void add(ConstMatrixView x, MatrixView y) const override {
    for_each_piece(factor_, x.rows, [&](int64_t first, int64_t rows) { run<add_block>(PackedRows::pack(x.row_range(first, rows), factor_.parts_a()), y.row_range(first, rows)); });
  }
  void add(const PackedRows& x, MatrixView y) const {
    for_each_piece(factor_, x.rows(), [&](int64_t first, int64_t rows) { run<add_block>(x.row_range(first, rows), y.row_range(first, rows)); });
  }

 private:
  template <auto finish>
  void run(const PackedRows& x, const MatrixView& y) const {
    factor_.multiply<1>(x, 0, 0, factor_.panels(), [&](int64_t r, int64_t panel) { fetch_block(get_block(y, r, panel)); }, [&](int64_t r, int64_t panel, const float* sums) { finish(1, sums, bias_.data() + panel * block, get_block(y, r, panel)); });
  }

  Factor factor_;
  std::vector<float> bias_;
};

/// The gate and what it is multiplied with, a panel of each in turn.
class AmxGated final : public PackedMatrix {
 public:
  AmxGated(const GatedRows& of, Precision precision, int parts)
      : activation_(of.activation), out_(of.gate.rows.rows()), factor_(of.gate.rows.cols(), 2 * count_blocks(out_) * block, parts, precision), gate_bias_(pack(of.gate, 0)), up_bias_(pack(of.up, 1)) {}

  int64_t most_rows() const override { return 4 * tile_rows; }

  void apply(ConstMatrixView x, MatrixView y) const override {
    for_each_piece(factor_, x.rows, [&](int64_t first, int64_t rows) {
      const MatrixView out = y.row_range(first, rows);
      run(x.row_range(first, rows), [&](int64_t r, int64_t column) { fetch_block(get_block(out, r, column)); }, [&](int64_t r, int64_t column, const MatrixView& values) { finish_block(1, values.data, no_bias, get_block(out, r, column)); });
    });
  }

  bool feeds(const PackedMatrix& next) const override { return dynamic_cast<const AmxMatrix*>(&next); }
  void add_through(const PackedMatrix& next, ConstMatrixView x, MatrixView y) const override {
    for_each_piece(factor_, x.rows, [&](int64_t first, int64_t rows) {
      const PackedRows units = PackedRows::make<8>(rows, out_, factor_.parts_a());
      run(x.row_range(first, rows), [](int64_t, int64_t) {}, [&](int64_t r, int64_t column, const MatrixView& values) { units.fill(r, column, values.column_range(0, std::min(block, out_ - column * block))); });
      dynamic_cast<const AmxMatrix&>(next).add(units, y.row_range(first, rows));
    });
  }

 private:
  std::vector<float> pack(const WeightRows& weight, int64_t from) { return pack_weight(factor_, weight.rows.rows(), weight.bias.values(), read_rows_of(std::span(&weight, 1)), from, 2); }

  /// Calls begin(r, column) before the last sums of a block, and finish(r, column, values) with what it holds, [up to 32, 32].
  template <typename Begin, typename Finish>
  void run(ConstMatrixView x, const Begin& begin, const Finish& finish) const {
    const PackedRows a = PackedRows::pack(x, factor_.parts_a());
    factor_.multiply<2>(a, 0, 0, factor_.panels(), [&](int64_t r, int64_t panel) { begin(r, panel / 2); }, [&](int64_t r, int64_t panel, float* sums) {
      const int64_t column = panel / 2;
      const MatrixView gate{sums, a.rows_of(r), block, block}, up{sums + Factor::sums_distance, gate.rows, block, block};
      finish_block(1, gate.data, gate_bias_.data() + column * block, gate);
      finish_block(1, up.data, up_bias_.data() + column * block, up);
      const std::span<float> values(gate.data, static_cast<size_t>(gate.rows * block));
      activate(activation_, values);
      multiply_by(values, {up.data, values.size()});
      finish(r, column, gate);
    });
  }

  Activation activation_;
  int64_t out_;
  Factor factor_;
  std::vector<float> gate_bias_, up_bias_;
};

class AmxFactor final : public PackedFactor {
 public:
  AmxFactor(ConstMatrixView b, Transpose transpose, Precision precision)
      : b_(b), transpose_(transpose), factor_(transpose == Transpose::yes ? b.cols : b.rows, transpose == Transpose::yes ? b.rows : b.cols, precision == Precision::f32 ? max_parts : 1, precision) {}

  void pack() override {
    for (int64_t panel = 0; panel < factor_.panels(); ++panel) {
      const int64_t first = panel * block;
      if (transpose_ == Transpose::yes) pack_columns(b_.row_range(first, std::min(block, b_.rows - first)), factor_.parts(), factor_.panel(panel));
      else pack_untransposed(b_, first, factor_.parts(), factor_.panel(panel));
    }
  }

  void multiply(float alpha, ConstMatrixView a, int64_t row, int64_t column, MatrixView c) const override {
    const int64_t panel_of_c = column / block;
    for_each_piece(factor_, a.rows, [&](int64_t first, int64_t rows) {
      const MatrixView out = c.row_range(first, rows);
      factor_.multiply<1>(PackedRows::pack(a.row_range(first, rows), factor_.parts_a()), row, panel_of_c, count_blocks(c.cols), [&](int64_t r, int64_t panel) { fetch_block(get_block(out, r, panel - panel_of_c)); },
                          [&](int64_t r, int64_t panel, const float* sums) { finish_block(alpha, sums, no_bias, get_block(out, r, panel - panel_of_c)); });
    });
  }

 private:
  ConstMatrixView b_;
  Transpose transpose_;
  Factor factor_;
};

/// Of all rows together.
int count_parts(int64_t rows, const ReadRows& read) {
  std::atomic<int> most = 1;
  parallel_pieces(rows, block, [&](int64_t first, int64_t last) {
    if (most == max_parts) return;
    const ConstMatrixView values = read(first, last - first);
    for (int64_t r = 0; r < values.rows && most < max_parts; ++r) {
      const int parts = amx::count_parts(values.row_span(r));
      for (int known = most; known < parts && !most.compare_exchange_weak(known, parts);) {}
    }
  });
  return most;
}

int count_parts(std::span<const WeightRows> weights, Precision precision) {
  int most = 1;
  for (const WeightRows& weight : weights)
    if (precision == Precision::f32 && !weight.rows.is_bf16()) most = std::max(most, count_parts(weight.rows.rows(), read_rows_of(std::span(&weight, 1))));
  return most;
}

}  // namespace

std::unique_ptr<PackedMatrix> pack_amx(ConstMatrixView weight, std::span<const float> bias, Precision precision) {
  const ReadRows read = read_rows_of(weight);
  return std::make_unique<AmxMatrix>(weight.rows, weight.cols, bias, precision, precision == Precision::bf16 ? 1 : count_parts(weight.rows, read), read);
}

std::unique_ptr<PackedMatrix> pack_amx_rows(std::span<const WeightRows> weights, Precision precision) {
  const std::vector<float> bias = join_biases(weights);
  return std::make_unique<AmxMatrix>(static_cast<int64_t>(bias.size()), weights[0].rows.cols(), bias, precision, count_parts(weights, precision), read_rows_of(weights));
}

std::unique_ptr<PackedMatrix> pack_amx_gated(const GatedRows& of, Precision precision) {
  return std::make_unique<AmxGated>(of, precision, std::max(count_parts({&of.gate, 1}, precision), count_parts({&of.up, 1}, precision)));
}

std::unique_ptr<PackedFactor> pack_amx_factor(ConstMatrixView b, Transpose transpose, Precision precision) { return std::make_unique<AmxFactor>(b, transpose, precision); }

}  // namespace llmc

#endif
