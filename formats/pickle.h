// Owns reading the pickle of a PyTorch state dict: an unpickler that knows tensors, storages and dictionaries of them, and
// nothing else. No global is looked up or called; one that is not in its short list is refused by name.
// Opcodes: pickletools of the Python library, protocol 2, which torch.save writes.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor.h"

namespace llmc {

/// A run of elements that tensors view.
struct PickledStorage {
  std::string_view key;  ///< which of the archive's storages; borrows the pickle
  DType dtype = DType::u8;
  int64_t count = 0;  ///< elements of that type
};

/// A tensor as it is described, not checked against its storage's size: nothing here is known to be non-negative.
struct PickledTensor {
  std::string name;
  PickledStorage storage;
  int64_t offset = 0;          ///< elements
  Shape shape;
  std::vector<int64_t> strides;  ///< elements, one for each dimension
};

/// The tensors of a pickle that is a dictionary of them, in its order. Throws Error(input) naming `where` and the byte.
std::vector<PickledTensor> read_state_dict(std::span<const std::byte> pickle, const std::string& where);

}  // namespace llmc
