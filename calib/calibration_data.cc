#include "calib/calibration_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

#include "calib/bundled_text.h"
#include "core/error.h"
#include "core/random.h"

namespace llmc {

using nlohmann::json;

namespace {

using Sequences = std::vector<std::vector<int32_t>>;

int64_t count_tokens(const Sequences& sequences) {
  return std::accumulate(sequences.begin(), sequences.end(), int64_t{0}, [](int64_t sum, const auto& sequence) { return sum + static_cast<int64_t>(sequence.size()); });
}

/// `count` different numbers below `bound`, ascending; each set is equally likely.
std::vector<size_t> choose(size_t count, size_t bound, Random& random) {
  std::vector<size_t> numbers(bound);
  std::iota(numbers.begin(), numbers.end(), size_t{0});
  for (size_t i = 0; i < count; ++i) std::swap(numbers[i], numbers[i + random.below(bound - i)]);  // the first steps of a shuffle
  numbers.resize(count);
  std::ranges::sort(numbers);
  return numbers;
}

Sequences draw_packed(std::span<const TokenData> sources, size_t wanted, size_t seqlen, Random& random) {
  std::vector<int32_t> stream;
  for (const TokenData& source : sources)
    for (const auto& sequence : source.sequences) stream.insert(stream.end(), sequence.begin(), sequence.end());
  const size_t available = stream.size() / seqlen;
  if (available == 0) throw Error(ErrorKind::input, fmt::format("calibration data: expected at least {} tokens, one sample, found {}; give more text, a smaller --seqlen or --calibration-packing document", seqlen, stream.size()));
  Sequences samples;
  for (size_t piece : choose(std::min(wanted, available), available, random)) {
    const auto begin = stream.begin() + static_cast<std::ptrdiff_t>(piece * seqlen);
    samples.emplace_back(begin, begin + static_cast<std::ptrdiff_t>(seqlen));
  }
  return samples;
}

Sequences draw_documents(std::span<const TokenData> sources, size_t wanted, size_t seqlen, Random& random) {
  std::vector<const std::vector<int32_t>*> documents;
  for (const TokenData& source : sources)
    for (const auto& sequence : source.sequences)
      if (!sequence.empty()) documents.push_back(&sequence);
  if (documents.empty()) throw Error(ErrorKind::input, "calibration data: no document holds a token");
  Sequences samples;
  for (size_t number : choose(std::min(wanted, documents.size()), documents.size(), random)) {
    const std::vector<int32_t>& document = *documents[number];
    const size_t size = std::min(seqlen, document.size());
    const auto begin = document.begin() + static_cast<std::ptrdiff_t>(random.below(document.size() - size + 1));
    samples.emplace_back(begin, begin + static_cast<std::ptrdiff_t>(size));
  }
  return samples;
}

std::vector<TokenData> load_sources(const CalibrationRequest& request) {
  std::vector<TokenData> sources;
  if (request.options.files.empty()) {
    if (!request.tokenizer) throw Error(ErrorKind::input, "the bundled calibration text needs a tokenizer.json in the model's folder; without one, give token ids: --calibration with .npy, .u16 or .u32");
    sources.push_back(tokenize_text(bundled_calibration_text(), "bundled calibration text", *request.tokenizer, request.vocabulary));
  }
  for (const std::string& file : request.options.files) {
    sources.push_back(load_token_data(file, {.tokenizer = request.tokenizer, .field = request.options.field}, request.vocabulary));
    const auto same = std::ranges::find(sources, sources.back().sha256, &TokenData::sha256);
    if (&*same != &sources.back()) throw Error(ErrorKind::input, fmt::format("calibration data: {} holds the same bytes as {}", file, same->name));
  }
  return sources;
}

}  // namespace

int64_t CalibrationData::tokens() const { return count_tokens(samples); }

json to_json(const CalibrationData& data) {
  json sources = json::array();
  for (const CalibrationSource& source : data.sources)
    sources.push_back({{"name", source.name}, {"sha256", source.sha256}, {"documents", source.documents}, {"empty_documents", source.empty_documents}, {"tokens", source.tokens}, {"held_out_tokens", source.held_out_tokens}});
  return {{"sources", sources}, {"samples", data.samples.size()}, {"requested_samples", data.requested_samples}, {"generated_samples", data.generated_samples}, {"seqlen", data.seqlen}, {"packing", to_string(data.packing)}, {"tokens", data.tokens()}, {"seed", data.seed}};
}

SplitData hold_out_end(TokenData data) {
  const int64_t tokens = count_tokens(data.sequences);
  const auto wanted = std::max<int64_t>(1, static_cast<int64_t>(held_out_share * static_cast<double>(tokens)));
  SplitData split{.calibration = std::move(data), .held_out = {}};
  TokenData& rest = split.calibration;
  TokenData& held_out = split.held_out;
  held_out.name = fmt::format("{} (its last {:.0f} %)", rest.name, 100 * held_out_share);
  held_out.sha256 = rest.sha256;
  std::erase_if(rest.byte_lengths, [](const auto& lengths) { return lengths.empty(); });
  std::erase_if(rest.sequences, [](const auto& sequence) { return sequence.empty(); });
  if (tokens < 2) throw Error(ErrorKind::input, fmt::format("{}: {} tokens cannot be split into calibration and evaluation data", rest.name, tokens));

  const auto move_end = [](Sequences& from, Sequences& to, size_t first, size_t cut) {  // documents from `first` on; of a single one its tokens from `cut` on
    if (from.empty()) return;
    if (from.size() == 1) {
      to.push_back({from[0].begin() + static_cast<std::ptrdiff_t>(cut), from[0].end()});
      from[0].resize(cut);
      return;
    }
    to.assign(std::make_move_iterator(from.begin() + static_cast<std::ptrdiff_t>(first)), std::make_move_iterator(from.end()));
    from.resize(first);
  };
  size_t first = rest.sequences.size();
  for (int64_t kept = 0; first > 1 && kept < wanted; --first) kept += static_cast<int64_t>(rest.sequences[first - 1].size());
  const size_t cut = rest.sequences[0].size() - std::min(static_cast<size_t>(wanted), rest.sequences[0].size());
  move_end(rest.sequences, held_out.sequences, first, cut);
  move_end(rest.byte_lengths, held_out.byte_lengths, first, cut);
  return split;
}

CalibrationData draw_samples(std::span<const TokenData> sources, const CalibrationOptions& options, int64_t seqlen, uint64_t seed) {
  CalibrationData data{.samples = {}, .seqlen = seqlen, .requested_samples = options.samples, .generated_samples = 0, .packing = options.packing, .seed = seed, .sources = {}, .warnings = {}};
  for (const TokenData& source : sources)
    data.sources.push_back({.name = source.name, .sha256 = source.sha256, .documents = std::ssize(source.sequences), .empty_documents = std::ranges::count_if(source.sequences, [](const auto& sequence) { return sequence.empty(); }), .tokens = count_tokens(source.sequences)});
  Random random(seed, "calibration samples");
  const auto draw = options.packing == Packing::packed ? draw_packed : draw_documents;
  const size_t wanted = options.samples == 0 ? std::numeric_limits<size_t>::max() : static_cast<size_t>(options.samples);
  data.samples = draw(sources, wanted, static_cast<size_t>(seqlen), random);
  if (std::ssize(data.samples) < options.samples) data.warnings.push_back(fmt::format("calibration: the data hold {} samples, {} were asked for; all of them are used", data.samples.size(), options.samples));
  return data;
}

bool needs_tokenizer(const CalibrationOptions& options) {
  return options.files.empty() || !std::ranges::all_of(options.files, [](const std::string& name) { return holds_token_ids(name); });
}

SeparatedData load_calibration(const CalibrationRequest& request, TokenData evaluation) {
  const int64_t seqlen = sample_length(request.options, request.context);
  std::vector<TokenData> sources = load_sources(request);
  const auto shared = std::ranges::find(sources, evaluation.sha256, &TokenData::sha256);
  if (shared == sources.end()) return {.calibration = draw_samples(sources, request.options, seqlen, request.seed), .evaluation = std::move(evaluation)};

  SplitData split = hold_out_end(std::move(*shared));
  *shared = std::move(split.calibration);
  SeparatedData result{.calibration = draw_samples(sources, request.options, seqlen, request.seed), .evaluation = std::move(split.held_out)};
  const int64_t held_out_tokens = count_tokens(result.evaluation.sequences);
  result.calibration.sources[static_cast<size_t>(shared - sources.begin())].held_out_tokens = held_out_tokens;
  result.calibration.warnings.push_back(fmt::format("calibration: {} is also what the result is judged on; its last {} tokens are judged on and no others, and calibration does not see them", shared->name, held_out_tokens));
  return result;
}

}  // namespace llmc
