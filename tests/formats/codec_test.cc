// One test loops over all codecs, schemes and odd sizes: decode(encode(x)) == x, and layout() tells the truth.
#include "formats/codec.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "formats/bit_stream.h"
#include "formats/codecs/compressed_tensors_codecs.h"
#include "formats/codecs/packed_codecs.h"
#include "passes/rounding.h"
#include "tests/catch.h"
#include "tests/support.h"

using namespace llmc;
using Catch::Matchers::Contains;

namespace {

/// Encodes, hands the parts back as a file would, and decodes. Keeps the encoded bytes alive.
struct RoundTrip {
  std::vector<EncodedPart> parts;
  StoredTensor decoded;

  RoundTrip(const Codec& codec, const StoredTensor& tensor) : parts(codec.encode(tensor)) {
    for (EncodedPart& part : parts)
      if (part.own.empty()) part.own.assign(part.of_tensor.begin(), part.of_tensor.end());
    decoded = {.name = tensor.name, .dtype = tensor.dtype, .shape = tensor.shape, .transposed = tensor.transposed, .pruned = tensor.pruned};
    EncodedData data{.codec = &codec};
    if (const auto* matrix = std::get_if<QuantizedMatrix>(&tensor.form)) data.scheme = matrix->scheme;
    for (const EncodedPart& part : parts) data.parts[part.layout.name] = {part.layout.dtype, part.layout.shape, part.own};
    decoded.form = std::move(data);
  }
};

bool same_meaning(const StoredTensor& a, const StoredTensor& b) {
  if (a.form.index() != b.form.index()) return false;
  if (const auto* matrix = std::get_if<QuantizedMatrix>(&a.form)) return *matrix == std::get<QuantizedMatrix>(b.form);
  return std::ranges::equal(std::get<FloatData>(a.form).bytes(), std::get<FloatData>(b.form).bytes());
}

std::vector<const Codec*> all_codecs() {
  std::vector<const Codec*> codecs;
  for (const auto list : {packed_codecs(), compressed_tensors_codecs()})
    for (const Codec& codec : list) codecs.push_back(&codec);
  return codecs;
}

Outliers make_outliers(int64_t count) {
  Outliers outliers{.dtype = count % 2 == 0 ? DType::f16 : DType::bf16};
  for (int64_t i = 0; i < count; i += 7) outliers.positions.push_back(i), outliers.values.push_back(static_cast<float>(i % 13) - 20);
  return outliers;
}

/// Quantized, pruned and quantized, and both with outliers. Nothing where the scheme's groups do not fit.
void add_quantized(std::vector<StoredTensor>& tensors, const Matrix& pruned_values, const Scheme& scheme, DType dtype) {
  const int64_t rows = pruned_values.rows(), cols = pruned_values.cols();
  if (scheme.granularity == Granularity::group && cols % scheme.group_size != 0) return;
  for (bool pruned : {false, true})
    for (bool has_outliers : {false, true}) {
      StoredTensor tensor{.name = "q.weight", .dtype = dtype, .shape = {rows, cols}, .pruned = pruned};
      QuantizedMatrix matrix = round_to_nearest((pruned ? pruned_values : test::random_matrix(rows, cols, "q")).view(), scheme, scale_dtype_for(scheme, dtype), {.zero = pruned ? ZeroLevel::kept : ZeroLevel::free}, "q");
      if (has_outliers) matrix.outliers = make_outliers(rows * cols);
      tensor.form = std::move(matrix);
      tensors.push_back(std::move(tensor));
    }
}

/// Dense, pruned and quantized tensors of odd sizes in every type and scheme.
std::vector<StoredTensor> all_tensors() {
  std::vector<StoredTensor> tensors;
  for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{1, 1}, {3, 31}, {33, 32}, {7, 255}, {40, 96}})
    for (DType dtype : {DType::f32, DType::f16, DType::bf16}) {
      Matrix values = test::random_matrix(rows, cols, "codec");
      for (bool transposed : {false, true}) tensors.push_back(test::make_tensor("t.weight", dtype, values, transposed));
      for (size_t i = 0; i < values.values().size(); ++i)
        if (i % 3 != 1) values.values()[i] = 0;
      if (values.values().size() > 1) values.values()[1] = -0.0f;  // must come back with its sign
      tensors.push_back(test::make_tensor("p.weight", dtype, values));
      tensors.back().pruned = true;
      for (const double share : {0.02, 0.7}) {  // few kept, and two of every four in blocks
        Matrix few(rows, cols);
        for (size_t i = 0; i < few.values().size(); ++i) few.values()[i] = (share < 0.5 ? i % 51 == 3 : (i / 8 + i % 4 % 3) % 2 == 0) ? values.values()[i] + 1 : 0;
        for (bool transposed : {false, true}) {
          tensors.push_back(test::make_tensor("s.weight", dtype, few, transposed));
          tensors.back().pruned = true;
        }
        add_quantized(tensors, few, parse_scheme("W4A16-channel"), dtype);
        add_quantized(tensors, few, parse_scheme("W3A16-g32-linear"), dtype);
      }
      for (const Preset& preset : preset_list())
        for (Granularity granularity : {Granularity::tensor, Granularity::channel, Granularity::group}) {
          Scheme scheme = preset.scheme;
          scheme.input.reset();  // outliers, which add_quantized adds, go with inputs in 16 bits only
          if (scheme.scale == ScaleKind::floating) scheme.granularity = granularity, scheme.group_size = granularity == Granularity::group ? 32 : 0;
          add_quantized(tensors, values, scheme, dtype);
        }
      for (int centroids : {2, 3, 16, 17, 256})
        for (Granularity granularity : {Granularity::tensor, Granularity::channel, Granularity::group}) {
          Scheme scheme = make_codebook_scheme(centroids);
          scheme.granularity = granularity, scheme.group_size = granularity == Granularity::group ? 32 : 0;
          add_quantized(tensors, values, scheme, dtype);
        }
      for (int bits = 2; bits <= 8; ++bits)
        for (Mapping mapping : {Mapping::symmetric, Mapping::linear})
          for (Granularity granularity : {Granularity::tensor, Granularity::channel, Granularity::group}) {
            add_quantized(tensors, values, {.bits = bits, .mapping = mapping, .granularity = granularity, .group_size = granularity == Granularity::group ? 32 : 0}, dtype);
          }
    }
  return tensors;
}

}  // namespace

TEST_CASE("every codec gives back exactly what it was given", "[codec]") {
  for (const StoredTensor& tensor : all_tensors())
    for (const Codec* codec : all_codecs()) {
      if (!codec->fits(tensor)) continue;
      INFO(codec->name << " " << tensor.name << " " << to_string(tensor.shape));
      RoundTrip trip(*codec, tensor);
      const std::vector<TensorLayout> layout = codec->layout(tensor);
      REQUIRE(layout.size() == trip.parts.size());
      for (size_t i = 0; i < layout.size(); ++i) {
        REQUIRE(layout[i].name == trip.parts[i].layout.name);
        REQUIRE(layout[i].shape == trip.parts[i].layout.shape);
        REQUIRE(layout[i].dtype == trip.parts[i].layout.dtype);
        REQUIRE(layout[i].bytes() == static_cast<int64_t>(trip.parts[i].own.size()));
      }
      decode(trip.decoded);
      REQUIRE(same_meaning(tensor, trip.decoded));
    }
}

TEST_CASE("the chosen codec is never larger than dense or than plain codes", "[codec]") {
  for (const StoredTensor& tensor : all_tensors()) {
    const Codec& chosen = choose_packed_codec(tensor);
    for (const Codec& codec : packed_codecs())
      if (codec.fits(tensor)) REQUIRE(stored_bytes(chosen.layout(tensor)) <= stored_bytes(codec.layout(tensor)));
  }
}

TEST_CASE("damaged parts are refused by name", "[codec]") {
  Matrix values = test::random_matrix(4, 33, "damage");
  for (size_t i = 0; i < values.values().size(); i += 2) values.values()[i] = 0;
  StoredTensor tensor = test::make_tensor("p.weight", DType::bf16, values);
  tensor.pruned = true;
  SECTION("a mask bit past the end") {
    RoundTrip trip(*find_packed_codec("bitmask"), tensor);
    trip.parts[0].own.back() |= std::byte{0x80};
    CHECK_THROWS_WITH(decode(trip.decoded), Contains("p.weight") && Contains("part mask: bit 135 is set"));
  }
  SECTION("a mask that disagrees with the number of values") {
    RoundTrip trip(*find_packed_codec("bitmask"), tensor);
    trip.parts[0].own.front() ^= std::byte{1};
    CHECK_THROWS_WITH(decode(trip.decoded), Contains("part values: expected BF16 [67], found BF16 [66]"));
  }
  SECTION("scales in few bits that are not finite, beyond their type, or too wide") {
    StoredTensor coded{.name = "p.weight", .dtype = DType::bf16, .shape = {16, 32}, .pruned = true};
    Matrix some = test::random_matrix(16, 32, "short scales");
    for (size_t i = 0; i < some.values().size(); i += 2) some.values()[i] = 0;
    coded.form = round_to_nearest(some.view(), parse_scheme("W4A16-g16"), DType::bf16, {}, "p");
    const auto spoil = [&](const char* part, size_t at, int value, const char* words) {
      RoundTrip trip(*find_packed_codec("bitmask+packed-codes"), coded);
      std::ranges::find(trip.parts, part, [](const EncodedPart& p) { return std::string_view(p.layout.name); })->own.at(at) = static_cast<std::byte>(value);
      CHECK_THROWS_WITH(decode(trip.decoded), Contains("p.weight: ") && Contains(words));
    };
    spoil("scale_base", 1, 0x7f, "is nan");
    spoil("scale_base", 1, 0xff, "part scale_steps: scale");
    spoil("scale_steps", 0, 17, "part scale_steps: expected a width of at most 16 bits, found 17");
    spoil("scale_steps", 0, 1, "part scale_steps: expected U8 [5]");
  }
  SECTION("a missing part") {
    RoundTrip trip(*find_packed_codec("bitmask"), tensor);
    std::get<EncodedData>(trip.decoded.form).parts.erase("values");
    CHECK_THROWS_WITH(decode(trip.decoded), Contains("part values is missing"));
  }
  SECTION("a scale that is not finite") {
    tensor.form = round_to_nearest(values.view(), parse_scheme("W4A16-channel"), DType::f32, {}, "p");
    RoundTrip trip(*find_packed_codec("packed-int"), tensor);
    const float nan = NAN;
    std::memcpy(trip.parts[1].own.data() + 4, &nan, 4);
    CHECK_THROWS_WITH(decode(trip.decoded), Contains("p.weight: scale 1 is nan"));
  }
  SECTION("weight_shape that lies") {
    tensor.pruned = false;
    tensor.form = round_to_nearest(values.view(), parse_scheme("W4A16-channel"), DType::f32, {}, "p");
    RoundTrip trip(*find_compressed_tensors_codec("pack-quantized"), tensor);
    trip.parts[2].own[0] = std::byte{5};
    CHECK_THROWS_WITH(decode(trip.decoded), Contains("weight_shape: expected [4, 33], found [5, 33]"));
  }
}

TEST_CASE("sizes that the parts do not have are refused before memory is taken for them", "[codec]") {
  const std::vector<std::byte> bytes(64);
  for (const auto& [scheme, codes] : {std::pair("W8A16-g1", TensorView{DType::i8, {8, 8}, bytes}), {"W4A16-g1", TensorView{DType::i32, {4, 4}, bytes}}, {"W4A16", TensorView{DType::i32, {4, 4}, bytes}}}) {
    INFO(scheme);
    const int64_t side = int64_t{1} << 30;  // 2^60 weights
    const std::vector<int64_t> shape = {side, side};
    StoredTensor tensor{.name = "p.weight", .dtype = DType::bf16, .shape = shape};
    EncodedData data{.codec = find_compressed_tensors_codec(parse_scheme(scheme)), .scheme = parse_scheme(scheme)};
    data.parts[codes.dtype == DType::i8 ? "weight" : "weight_packed"] = codes;
    data.parts["weight_scale"] = {DType::bf16, {1, 1}, std::span(bytes).first(2)};
    data.parts["weight_shape"] = {DType::i64, {2}, std::as_bytes(std::span(shape))};
    tensor.form = std::move(data);
    CHECK_THROWS_WITH(decode(tensor), Contains("p.weight") && Contains("expected"));
  }
}

TEST_CASE("codes, centroids, scales and outliers that a scheme does not have are refused", "[codec]") {
  const Matrix values = test::random_matrix(4, 32, "damage");
  const auto make = [&](const char* scheme) {
    StoredTensor tensor{.name = "w.weight", .dtype = DType::bf16, .shape = {4, 32}};
    tensor.form = round_to_nearest(values.view(), parse_scheme(scheme), scale_dtype_for(parse_scheme(scheme), DType::bf16), {}, "w");
    return tensor;
  };
  const auto part = [](RoundTrip& trip, std::string_view name) -> std::vector<std::byte>& { return std::ranges::find(trip.parts, name, [](const EncodedPart& p) { return p.layout.name; })->own; };
  SECTION("a NaN among E4M3") {
    RoundTrip trip(*find_compressed_tensors_codec("float-quantized"), make("FP8A16"));
    part(trip, "weight")[5] = std::byte{0x7f};
    CHECK_THROWS_WITH(decode(trip.decoded), Contains("w.weight: the code at row 0, column 5 is 127; FP8A16-channel has codes from -126 to 126"));
  }
  SECTION("int8 codes and zero points of a scheme with fewer bits") {
    RoundTrip codes(*find_compressed_tensors_codec("int-quantized"), make("W4A16-g16-linear"));
    decode(codes.decoded);
    RoundTrip code(*find_compressed_tensors_codec("int-quantized"), make("W4A16-g16-linear"));
    part(code, "weight")[2 * 32 + 7] = std::byte{8};
    CHECK_THROWS_WITH(decode(code.decoded), Contains("w.weight: the code at row 2, column 7 is 8; W4A16-g16-linear has codes from -8 to 7"));
    RoundTrip zero(*find_compressed_tensors_codec("int-quantized"), make("W4A16-g16-linear"));
    part(zero, "weight_zero_point")[3] = std::byte{0xf7};
    CHECK_THROWS_WITH(decode(zero.decoded), Contains("w.weight: part weight_zero_point: row 1, column 1 is -9; W4A16-g16-linear has codes from -8 to 7"));
  }
  SECTION("the negative zero of other writers is zero") {
    RoundTrip trip(*find_compressed_tensors_codec("nvfp4-pack-quantized"), make("NVFP4A16"));
    part(trip, "weight_packed")[0] = std::byte{0x88};
    decode(trip.decoded);
    CHECK(std::get<QuantizedMatrix>(trip.decoded.form).codes[0] == 0);
    CHECK(std::get<QuantizedMatrix>(trip.decoded.form).codes[1] == 0);
  }
  SECTION("a code without a level") {
    RoundTrip trip(*find_packed_codec("packed-int"), make("codebook10"));
    part(trip, "codes")[0] = std::byte{0xff};
    CHECK_THROWS_WITH(decode(trip.decoded), Contains("w.weight: the code at row 0, column 0 is 7; codebook10-tensor has codes from -8 to 1"));
  }
  SECTION("centroids out of order") {
    RoundTrip trip(*find_packed_codec("packed-int"), make("codebook16"));
    std::ranges::reverse(part(trip, "centroids"));
    CHECK_THROWS_WITH(decode(trip.decoded), Contains("part centroids: row 0: expected finite centroids in ascending order"));
  }
  SECTION("a tensor's scale that is not positive") {
    RoundTrip trip(*find_compressed_tensors_codec("nvfp4-pack-quantized"), make("NVFP4A16"));
    std::ranges::fill(part(trip, "weight_global_scale"), std::byte{0});
    CHECK_THROWS_WITH(decode(trip.decoded), Contains("the scale of the tensor is 0"));
  }
  SECTION("a power of two that is NaN") {
    RoundTrip trip(*find_compressed_tensors_codec("mxfp4-pack-quantized"), make("MXFP4A16"));
    part(trip, "weight_scale")[2] = std::byte{0xff};
    CHECK_THROWS_WITH(decode(trip.decoded), Contains("scale 2 is nan"));
  }
  SECTION("positions past the end, and values that are not finite") {
    StoredTensor tensor = make("NF4-g32");
    std::get<QuantizedMatrix>(tensor.form).outliers = {.dtype = DType::bf16, .positions = {3, 127}, .values = {1, 2}};
    RoundTrip trip(*find_packed_codec("packed-int+outliers"), tensor);
    std::get<EncodedData>(trip.decoded.form).parts["outlier_values"].bytes = std::span(part(trip, "outlier_values")).first(2);
    std::get<EncodedData>(trip.decoded.form).parts["outlier_values"].shape = {1};
    CHECK_THROWS_WITH(decode(trip.decoded), Contains("part outlier_gaps: does not say 1 positions below 128"));
    RoundTrip other(*find_packed_codec("packed-int+outliers"), tensor);
    part(other, "outlier_values")[1] = std::byte{0x7f}, part(other, "outlier_values")[0] = std::byte{0xc0};
    CHECK_THROWS_WITH(decode(other.decoded), Contains("part outlier_values: holds nan"));
  }
  SECTION("a shape that the parts cannot fill is refused before anything is allocated") {
    for (const char* scheme : {"codebook256-g1", "FP8A16", "NF4-g1"}) {
      RoundTrip trip(*find_packed_codec("packed-int"), make(scheme));
      trip.decoded.shape = {int64_t{1} << 30, int64_t{1} << 30};
      CHECK_THROWS_WITH(decode(trip.decoded), Contains("part codes: expected"));
    }
  }
}

TEST_CASE("compressed-tensors' packed floats, byte by byte", "[codec]") {
  // What compressed_tensors 0.19's pack_fp4_to_uint8 makes of 1, -6, 0.5, 0 … : magnitude 2 | (7 | 8) << 4, 1 | 0 << 4.
  QuantizedMatrix matrix = make_quantized_matrix(parse_scheme("MXFP4A16"), DType::f8_e8m0, 1, 32, "t");
  matrix.codes[0] = 2, matrix.codes[1] = -7, matrix.codes[2] = 1;
  matrix.scales[0] = 0.25f;
  StoredTensor tensor{.name = "t.weight", .dtype = DType::bf16, .shape = {1, 32}, .form = matrix};
  const auto parts = find_compressed_tensors_codec("mxfp4-pack-quantized")->encode(tensor);
  CHECK(parts[0].own[0] == std::byte{0xf2});
  CHECK(parts[0].own[1] == std::byte{0x01});
  CHECK(parts[1].own[0] == std::byte{125});
  const Matrix values = dequantize(matrix);
  CHECK(values.row(0)[0] == 0.25f);
  CHECK(values.row(0)[1] == -1.5f);
}

TEST_CASE("bits lie least significant first, across byte borders", "[bit_stream]") {
  const std::vector<int8_t> codes = {-4, -3, 3, 0, 1};  // 3 bits: 0 1 7 4 5 → 000 100 111 001 101 in stream order
  std::vector<std::byte> packed(2);
  pack_codes(codes, 3, packed);
  CHECK(packed == std::vector<std::byte>{std::byte{0b11001000}, std::byte{0b01011001}});
  for (int bits = 1; bits <= 8; ++bits)
    for (int64_t count : {0, 1, 31, 33, 64, 255}) {
      std::vector<int8_t> values;
      for (int64_t i = 0; i < count; ++i) values.push_back(static_cast<int8_t>(i * 37 % (1 << bits) - (1 << (bits - 1))));
      std::vector<std::byte> bytes(static_cast<size_t>(packed_bytes(count, bits)));
      pack_codes(values, bits, bytes);
      std::vector<int8_t> back(values.size());
      unpack_codes(bytes, bits, back);
      CHECK(back == values);
    }
}
