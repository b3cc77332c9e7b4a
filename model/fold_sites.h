// Owns fold sites: where channels between a producer and its consumers can be rescaled without changing what a model computes.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "model/model.h"

namespace llmc {

/// The producer's channel j may be divided by any s[j] > 0 if the consumers' columns that read it are multiplied by s[j].
///   a norm → the linear layers that read it          (Xiao 2022, section 4)
///   ffn_up → ffn_down                                where what lies between is linear in ffn_up (gated) or relu
///   (no norm behind a sublayer is one, as what it gives is added to what others do)
///   value → attention_output                         per value channel: query heads that share a kv head share its scales
/// Nothing else is exact: a nonlinearity lies between.
struct FoldSite {
  int64_t block = 0;
  Role producer = Role::attention_norm;
  std::vector<Role> consumers;      ///< of experts: those of all of them
  std::vector<int64_t> rows;        ///< [channels]: the producer's row (of a norm: its weight) that makes each channel
  int64_t channels = 0;
  std::vector<int64_t> channel_of;  ///< [columns of a consumer]: the channel, from 0, that each reads
};

/// "block 3: ffn_up → ffn_down"
std::string to_string(const FoldSite& site);

/// The sites of a block whose tensors are all floats, in the order in which a block computes them.
std::vector<FoldSite> find_fold_sites(const Model& model, int64_t block);

/// Rescales by s [channels] and returns the scales in effect, all positive and finite. A norm's weight is rounded to its dtype
/// at once, and its scales are then those that undo the rounded weight exactly: s = weight before / weight after. Everything
/// else stays unrounded f32 (FloatData), so that the function is kept to f32 accuracy until the passes are done.
std::vector<float> scale_channels(Model& model, const FoldSite& site, std::span<const float> scales);

}  // namespace llmc
