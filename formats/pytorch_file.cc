#include "formats/pytorch_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <string_view>

#include "core/error.h"
#include "core/shown.h"
#include "formats/pickle.h"
#include "formats/zip_archive.h"

namespace llmc {
namespace {

using Entries = std::map<std::string, std::span<const std::byte>>;

std::string_view as_text(std::span<const std::byte> bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }

/// What all entries of the archive lie under; PyTorch calls it by the file.
std::string find_folder(const Entries& entries, const std::string& where) {
  constexpr std::string_view pickle = "/data.pkl";
  std::string folder;
  for (const auto& [name, bytes] : entries) {
    if (!name.ends_with(pickle)) continue;
    if (!folder.empty()) throw Error(ErrorKind::input, fmt::format("{}: entries {} and {}{}: expected one pickle", where, name, folder, pickle));
    folder = name.substr(0, name.size() - pickle.size());
  }
  if (folder.empty()) throw Error(ErrorKind::input, fmt::format("{}: has no entry FOLDER/data.pkl; expected what torch.save writes", where));
  return folder;
}

bool lies_in_rows(const PickledTensor& tensor) {
  int64_t expected = 1;
  for (size_t d = tensor.shape.size(); d-- > 0;) {
    if (tensor.shape[d] != 1 && tensor.strides[d] != expected) return false;
    expected *= tensor.shape[d];
  }
  return true;
}

/// The last element that it views, where it has one. Throws Error(input).
int64_t find_last_element(const PickledTensor& tensor) {
  int64_t last = tensor.offset;
  bool fits = tensor.offset >= 0;
  for (size_t d = 0; d < tensor.shape.size(); ++d) {
    int64_t reach = 0;
    fits &= tensor.strides[d] >= 0 && !__builtin_mul_overflow(tensor.shape[d] - 1, tensor.strides[d], &reach) && !__builtin_add_overflow(last, reach, &last);
  }
  if (!fits) throw Error(ErrorKind::input, fmt::format("offset {} and strides {} of shape {} lead nowhere", tensor.offset, to_string(tensor.strides), to_string(tensor.shape)));
  return last;
}

/// Whether no two elements are views of one: each stride goes beyond all that the smaller ones reach.
bool views_each_once(const PickledTensor& tensor) {
  std::vector<std::pair<int64_t, int64_t>> steps;  // (stride, size)
  for (size_t d = 0; d < tensor.shape.size(); ++d)
    if (tensor.shape[d] > 1) steps.emplace_back(tensor.strides[d], tensor.shape[d]);
  std::ranges::sort(steps);
  int64_t reach = 0;  // fits, as find_last_element's does
  for (const auto& [stride, size] : steps) {
    if (stride <= reach) return false;
    reach += stride * (size - 1);
  }
  return true;
}

/// Elements in the order of rows, from where the strides say.
std::vector<std::byte> copy_rows(const PickledTensor& tensor, std::span<const std::byte> storage, int64_t count) {
  const size_t size = get_info(tensor.storage.dtype).bytes;
  std::vector<std::byte> rows(static_cast<size_t>(count) * size);
  std::vector<int64_t> index(tensor.shape.size());
  int64_t at = tensor.offset;
  for (size_t i = 0; i < static_cast<size_t>(count); ++i) {
    std::memcpy(rows.data() + i * size, storage.data() + static_cast<size_t>(at) * size, size);
    for (size_t d = index.size(); d-- > 0;) {
      if (tensor.shape[d] == 1) continue;  // its stride says nothing, and may be anything
      if (++index[d] < tensor.shape[d]) {
        at += tensor.strides[d];
        break;
      }
      at -= tensor.strides[d] * (tensor.shape[d] - 1);
      index[d] = 0;
    }
  }
  return rows;
}

class ViewMaker {
 public:
  ViewMaker(const Entries& entries, std::string folder, size_t most_copied, PytorchContent& content) : entries_(entries), folder_(std::move(folder)), left_(most_copied), content_(content) {}

  TensorView make(const PickledTensor& tensor) {
    const PickledStorage& storage = tensor.storage;
    const size_t size = get_info(storage.dtype).bytes;
    const std::string name = fmt::format("{}/data/{}", folder_, storage.key);
    const auto entry = entries_.find(name);
    if (entry == entries_.end()) throw Error(ErrorKind::input, fmt::format("its storage {} is not in the archive", name));
    const std::span<const std::byte> bytes = entry->second;
    if (storage.count < 0 || static_cast<uint64_t>(storage.count) > bytes.size() / size || static_cast<uint64_t>(storage.count) * size != bytes.size())
      throw Error(ErrorKind::input, fmt::format("its storage {}: expected {} elements of {}, found {} bytes", name, storage.count, get_info(storage.dtype).name, bytes.size()));
    const int64_t count = element_count(tensor.shape, "shape");
    TensorView view{.dtype = storage.dtype, .shape = tensor.shape, .bytes = {}};
    if (count == 0) return view;
    if (const int64_t last = find_last_element(tensor); last >= storage.count)
      throw Error(ErrorKind::input, fmt::format("shape {}, strides {} and offset {} reach element {} of a storage of {}", to_string(tensor.shape), to_string(tensor.strides), tensor.offset, last, storage.count));
    if (lies_in_rows(tensor)) {
      view.bytes = bytes.subspan(static_cast<size_t>(tensor.offset) * size, static_cast<size_t>(count) * size);
      return view;
    }
    if (!views_each_once(tensor)) throw Error(ErrorKind::input, fmt::format("shape {} with strides {} views elements of its storage more than once", to_string(tensor.shape), to_string(tensor.strides)));
    const size_t needed = static_cast<size_t>(count) * size;
    if (needed > left_) throw Error(ErrorKind::input, "tensors that do not lie row by row would take more memory than the file has bytes");
    left_ -= needed;
    view.bytes = content_.copies.emplace(tensor.name, copy_rows(tensor, bytes, count)).first->second;
    return view;
  }

 private:
  const Entries& entries_;
  std::string folder_;
  size_t left_;  ///< bytes that may still be copied
  PytorchContent& content_;
};

}  // namespace

PytorchContent parse_pytorch(std::span<const std::byte> bytes, const std::string& where) {
  if (!bytes.empty() && bytes[0] == std::byte{0x80}) throw Error(ErrorKind::input, fmt::format("{}: is a bare pickle, as PyTorch before 1.6 wrote; expected a ZIP archive, which torch.save of a later one makes of it", where));
  const Entries entries = parse_stored_zip(bytes, where);
  const std::string folder = find_folder(entries, where);
  if (const auto order = entries.find(folder + "/byteorder"); order != entries.end() && as_text(order->second) != "little") throw Error(ErrorKind::input, fmt::format("{}: byteorder: expected little, found {}", where, as_text(order->second).substr(0, 20)));
  PytorchContent content;
  ViewMaker views(entries, folder, bytes.size(), content);
  Problems problems;
  for (const PickledTensor& tensor : read_state_dict(entries.at(folder + "/data.pkl"), where)) {
    try {
      content.tensors.push_back({tensor.name, views.make(tensor)});
    } catch (const Error& problem) {
      problems.add(fmt::format("tensor {}: {}", shown(tensor.name), problem.what()));
    }
  }
  problems.throw_if_any(ErrorKind::input, where);
  return content;
}

}  // namespace llmc
