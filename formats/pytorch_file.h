// Owns reading the files that torch.save writes of a state dict: a ZIP archive of a pickle and the storages that it names.
// Format: torch/serialization.py and caffe2/serialize of PyTorch 1.6 and later.
#pragma once

#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "formats/safetensors.h"

namespace llmc {

/// The tensors borrow the bytes that were parsed; those that do not lie there row by row borrow `copies`.
struct PytorchContent {
  std::vector<NamedTensor> tensors;             ///< in the order of the state dict
  std::map<std::string, std::vector<std::byte>> copies;  ///< by tensor
};

/// Checks archive, pickle, and every tensor's type, shape, strides and offset against its storage. Several tensors may view one
/// storage; none may view an element twice, and copies may not take more than the file's size. Throws Error(input) that lists
/// every problem with tensor, expected and found; `where` is the file's name.
PytorchContent parse_pytorch(std::span<const std::byte> bytes, const std::string& where);

}  // namespace llmc
