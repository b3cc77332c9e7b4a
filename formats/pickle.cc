#include "formats/pickle.h"

#include <fmt/format.h>

#include <array>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string_view>
#include <utility>
#include <variant>

#include "core/byte_cursor.h"
#include "core/shown.h"
#include "core/utf8.h"

namespace llmc {
namespace {

constexpr size_t most_pickle_bytes = size_t{8} << 20;  // fifty thousand tensors; a byte costs at most some tens of bytes in memory
constexpr size_t most_dimensions = 8;                  // weights have four at most, and few keep what a tensor costs small

enum class GlobalKind { ordered_dict, rebuild_v2, rebuild_v3, rebuild_parameter, storage, untyped_storage, dtype };

/// What a pickle may name.
struct Global {
  GlobalKind kind;
  std::string_view module;
  std::string_view name;
  DType dtype = DType::u8;  ///< of a storage or a dtype
};

constexpr std::array globals = {
    Global{GlobalKind::ordered_dict, "collections", "OrderedDict"},
    Global{GlobalKind::rebuild_v2, "torch._utils", "_rebuild_tensor_v2"},
    Global{GlobalKind::rebuild_v3, "torch._utils", "_rebuild_tensor_v3"},
    Global{GlobalKind::rebuild_parameter, "torch._utils", "_rebuild_parameter"},
    Global{GlobalKind::untyped_storage, "torch.storage", "UntypedStorage"},
    Global{GlobalKind::storage, "torch", "DoubleStorage", DType::f64},
    Global{GlobalKind::storage, "torch", "FloatStorage", DType::f32},
    Global{GlobalKind::storage, "torch", "HalfStorage", DType::f16},
    Global{GlobalKind::storage, "torch", "BFloat16Storage", DType::bf16},
    Global{GlobalKind::storage, "torch", "LongStorage", DType::i64},
    Global{GlobalKind::storage, "torch", "IntStorage", DType::i32},
    Global{GlobalKind::storage, "torch", "ShortStorage", DType::i16},
    Global{GlobalKind::storage, "torch", "CharStorage", DType::i8},
    Global{GlobalKind::storage, "torch", "ByteStorage", DType::u8},
    Global{GlobalKind::storage, "torch", "BoolStorage", DType::boolean},
};

std::optional<Global> find_global(std::string_view module, std::string_view name) {
  for (const Global& global : globals)
    if (global.module == module && global.name == name) return global;
  if (module == "torch")
    for (const DTypeInfo& info : dtype_list())
      if (info.torch_name == name) return Global{GlobalKind::dtype, "torch", info.torch_name, info.dtype};
  return std::nullopt;
}

using Reference = uint32_t;  // of a value among all that were made; values are never copied, so nothing can grow by being named twice

struct Mark {};
struct None {};
struct Tuple {
  std::vector<Reference> items;
};
struct Dictionary {
  std::vector<std::pair<Reference, Reference>> entries;
};
struct Storage {
  size_t number;  ///< in storages_
};
struct TensorValue {
  size_t number;  ///< in tensors_
};
using Value = std::variant<Mark, None, bool, int64_t, std::string_view, Tuple, Dictionary, Global, Storage, TensorValue>;

constexpr std::array kind_names = {"a mark", "None", "a boolean", "an integer", "text", "a tuple", "a dictionary", "a global", "a storage", "a tensor"};
static_assert(kind_names.size() == std::variant_size_v<Value>);

enum Opcode : uint8_t {
  op_mark = '(', op_stop = '.', op_binint = 'J', op_binint1 = 'K', op_binint2 = 'M', op_none = 'N', op_binpersid = 'Q', op_reduce = 'R',
  op_binunicode = 'X', op_empty_dict = '}', op_build = 'b', op_global = 'c', op_binget = 'h', op_long_binget = 'j', op_binput = 'q', op_long_binput = 'r',
  op_setitem = 's', op_tuple = 't', op_empty_tuple = ')', op_setitems = 'u', op_proto = 0x80, op_tuple1 = 0x85, op_tuple2 = 0x86, op_tuple3 = 0x87,
  op_new_true = 0x88, op_new_false = 0x89, op_long1 = 0x8a,
};

/// The stack machine. Every opcode makes one value at most, and none copies one.
class Unpickler {
 public:
  Unpickler(std::span<const std::byte> pickle, const std::string& where) : cursor_(pickle, where) {}

  std::vector<PickledTensor> run() {
    if (cursor_.read<uint8_t>("opcode") != op_proto) refuse("does not begin as a pickle of protocol 2");
    if (const int protocol = cursor_.read<uint8_t>("protocol"); protocol != 2) refuse(fmt::format("protocol {}; expected 2, as torch.save writes", protocol));
    while (step()) {
    }
    if (cursor_.left() > 0) refuse(fmt::format("{} bytes follow its end", cursor_.left()));
    const Reference top = pop();
    if (!stack_.empty()) refuse(fmt::format("ends with {} more values than one", stack_.size()));
    return list_tensors(get<Dictionary>(top, "the whole of a checkpoint"));
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const { cursor_.refuse(fmt::format("pickle: {} (byte {})", what, at_)); }

  template <typename Kind>
  Kind& get(Reference reference, std::string_view what) {
    if (Kind* value = std::get_if<Kind>(&values_[reference])) return *value;
    const size_t expected = Value(std::in_place_type<Kind>).index();
    refuse(fmt::format("{}: expected {}, found {}", what, kind_names[expected], kind_names[values_[reference].index()]));
  }

  void push(Value value) {
    stack_.push_back(static_cast<Reference>(values_.size()));
    values_.push_back(std::move(value));
  }

  Reference peek() {
    if (stack_.empty()) refuse("takes a value from an empty stack");
    if (std::holds_alternative<Mark>(values_[stack_.back()])) refuse("takes a mark for a value");
    return stack_.back();
  }

  Reference pop() {
    const Reference top = peek();
    stack_.pop_back();
    return top;
  }

  /// What lies on the stack above the last mark, which goes too.
  std::vector<Reference> pop_to_mark() {
    size_t first = stack_.size();
    while (first > 0 && !std::holds_alternative<Mark>(values_[stack_[first - 1]])) --first;
    if (first == 0) refuse("a mark is missing");
    std::vector<Reference> items(stack_.begin() + static_cast<ptrdiff_t>(first), stack_.end());
    stack_.resize(first - 1);
    return items;
  }

  void push_tuple(size_t size) {
    Tuple tuple{.items = std::vector<Reference>(size)};
    for (size_t i = size; i-- > 0;) tuple.items[i] = pop();
    push(std::move(tuple));
  }

  void set_items(const std::vector<Reference>& items) {
    if (items.size() % 2 != 0) refuse("a key without a value");
    Dictionary& dictionary = get<Dictionary>(peek(), "where an entry is put");
    for (size_t i = 0; i < items.size(); i += 2) dictionary.entries.emplace_back(items[i], items[i + 1]);
  }

  std::string_view read_line() {
    const size_t most = 1024;
    std::string_view rest = cursor_.peek_text();
    const size_t end = rest.substr(0, most).find('\n');
    if (end == std::string_view::npos) refuse(fmt::format("a global's name does not end within {} bytes", most));
    cursor_.take(end + 1, "global");
    return rest.substr(0, end);
  }

  void push_global() {
    const std::string_view module = read_line(), name = read_line();
    const auto global = find_global(module, name);
    if (!global) refuse(fmt::format("global {}.{} is refused: a checkpoint needs tensors, their storages and dictionaries only, and nothing is executed", shown(std::string(module)), shown(std::string(name))));
    push(*global);
  }

  void push_long() {
    const auto size = cursor_.read<uint8_t>("integer");
    if (size > 8) refuse(fmt::format("an integer of {} bytes; expected 8 at most", size));
    uint64_t bits = 0;
    const auto bytes = cursor_.take(size, "integer");
    for (size_t i = 0; i < bytes.size(); ++i) bits |= std::to_integer<uint64_t>(bytes[i]) << (8 * i);
    if (size > 0 && size < 8 && (bits >> (8 * size - 1)) != 0) bits |= ~uint64_t{0} << (8 * size);
    push(static_cast<int64_t>(bits));
  }

  void get_memo(uint32_t index) {
    const auto found = memo_.find(index);
    if (found == memo_.end()) refuse(fmt::format("memo {} was never set", index));
    stack_.push_back(found->second);
  }

  /// ("storage", type, key, device, count): the count of an untyped storage is of bytes.
  void push_storage() {
    const Tuple& id = get<Tuple>(pop(), "storage");
    if (id.items.size() != 5 || get<std::string_view>(id.items[0], "storage") != "storage") refuse("a persistent id that is no storage");
    const Global& type = get<Global>(id.items[1], "type of a storage");
    if (type.kind != GlobalKind::storage && type.kind != GlobalKind::untyped_storage) refuse(fmt::format("type of a storage: {}.{}", type.module, type.name));
    storages_.push_back({.key = get<std::string_view>(id.items[2], "key of a storage"), .dtype = type.dtype, .count = get<int64_t>(id.items[4], "size of a storage")});
    is_untyped_.push_back(type.kind == GlobalKind::untyped_storage);
    push(Storage{storages_.size() - 1});
  }

  std::vector<int64_t> read_numbers(Reference reference, std::string_view what) {
    const Tuple& tuple = get<Tuple>(reference, what);
    if (tuple.items.size() > most_dimensions) refuse(fmt::format("{}: {} dimensions; expected {} at most", what, tuple.items.size(), most_dimensions));
    std::vector<int64_t> numbers;
    for (Reference item : tuple.items) numbers.push_back(get<int64_t>(item, what));
    return numbers;
  }

  /// (storage, offset, shape, strides, requires_grad, hooks), for v3 a dtype, and what may follow: None.
  void push_tensor(const Tuple& arguments, GlobalKind kind) {
    const size_t least = kind == GlobalKind::rebuild_v3 ? 7 : 6;
    if (arguments.items.size() < least || arguments.items.size() > least + 1) refuse(fmt::format("a tensor of {} arguments; expected {} or {}", arguments.items.size(), least, least + 1));
    if (arguments.items.size() > least) get<None>(arguments.items[least], "metadata of a tensor");
    const size_t number = get<Storage>(arguments.items[0], "storage of a tensor").number;
    PickledTensor tensor{.name = {}, .storage = storages_[number], .offset = get<int64_t>(arguments.items[1], "offset of a tensor"), .shape = read_numbers(arguments.items[2], "shape of a tensor"), .strides = read_numbers(arguments.items[3], "strides of a tensor")};
    if (tensor.shape.size() != tensor.strides.size()) refuse(fmt::format("a tensor of {} dimensions has {} strides", tensor.shape.size(), tensor.strides.size()));
    if (is_untyped_[number] != (kind == GlobalKind::rebuild_v3)) refuse("a tensor without a type, or with two");
    if (kind == GlobalKind::rebuild_v3) {
      const Global& dtype = get<Global>(arguments.items[6], "dtype of a tensor");
      if (dtype.kind != GlobalKind::dtype) refuse(fmt::format("dtype of a tensor: {}.{}", dtype.module, dtype.name));
      const int64_t bytes = static_cast<int64_t>(get_info(dtype.dtype).bytes);
      if (tensor.storage.count % bytes != 0) refuse(fmt::format("a storage of {} bytes holds no whole number of {}", tensor.storage.count, get_info(dtype.dtype).name));
      tensor.storage.dtype = dtype.dtype;
      tensor.storage.count /= bytes;
    }
    tensors_.push_back(std::move(tensor));
    push(TensorValue{tensors_.size() - 1});
  }

  void reduce() {
    const Reference arguments_at = pop(), callable_at = pop();
    const Global& callable = get<Global>(callable_at, "what is called");
    const Tuple& arguments = get<Tuple>(arguments_at, "arguments");
    switch (callable.kind) {
      case GlobalKind::rebuild_v2:
      case GlobalKind::rebuild_v3: return push_tensor(arguments, callable.kind);
      case GlobalKind::ordered_dict:
        if (!arguments.items.empty()) refuse("OrderedDict with arguments; expected none");
        return push(Dictionary{});
      case GlobalKind::rebuild_parameter:  // (tensor, requires_grad, hooks): the tensor
        if (arguments.items.size() != 3) refuse(fmt::format("a parameter of {} arguments; expected 3", arguments.items.size()));
        get<TensorValue>(arguments.items[0], "a parameter");
        return stack_.push_back(arguments.items[0]);
      default: refuse(fmt::format("a call of {}.{}, which is no function", callable.module, callable.name));
    }
  }

  /// Attributes of a dictionary, such as _metadata of a state dict, say nothing about its tensors.
  void build() {
    get<Dictionary>(pop(), "attributes");
    get<Dictionary>(peek(), "what gets attributes");
  }

  /// False at the end.
  bool step() {
    at_ = cursor_.position();
    const auto opcode = cursor_.read<uint8_t>("opcode");
    switch (opcode) {
      case op_stop: return false;
      case op_mark: push(Mark{}); break;
      case op_none: push(None{}); break;
      case op_new_true: push(true); break;
      case op_new_false: push(false); break;
      case op_binint: push(int64_t{cursor_.read<int32_t>("integer")}); break;
      case op_binint1: push(int64_t{cursor_.read<uint8_t>("integer")}); break;
      case op_binint2: push(int64_t{cursor_.read<uint16_t>("integer")}); break;
      case op_long1: push_long(); break;
      case op_binunicode: {
        const auto size = cursor_.read<uint32_t>("text");
        const std::string_view text = cursor_.take_text(size, "text");
        if (const auto at = find_invalid_utf8(text)) refuse(fmt::format("text that is not UTF-8 from its byte {} on: {}", *at, shown(std::string(text))));
        push(text);
        break;
      }
      case op_empty_dict: push(Dictionary{}); break;
      case op_empty_tuple: push(Tuple{}); break;
      case op_tuple: push(Tuple{.items = pop_to_mark()}); break;
      case op_tuple1: push_tuple(1); break;
      case op_tuple2: push_tuple(2); break;
      case op_tuple3: push_tuple(3); break;
      case op_setitem: {
        const Reference value = pop(), key = pop();
        set_items({key, value});
        break;
      }
      case op_setitems: set_items(pop_to_mark()); break;
      case op_binput: memo_[cursor_.read<uint8_t>("memo")] = peek(); break;
      case op_long_binput: memo_[cursor_.read<uint32_t>("memo")] = peek(); break;
      case op_binget: get_memo(cursor_.read<uint8_t>("memo")); break;
      case op_long_binget: get_memo(cursor_.read<uint32_t>("memo")); break;
      case op_global: push_global(); break;
      case op_binpersid: push_storage(); break;
      case op_reduce: reduce(); break;
      case op_build: build(); break;
      default: refuse(fmt::format("opcode 0x{:02x} is none that a checkpoint needs", opcode));
    }
    return true;
  }

  std::vector<PickledTensor> list_tensors(const Dictionary& dictionary) {
    std::vector<PickledTensor> result;
    std::set<std::string_view> names;
    for (const auto& [key, value] : dictionary.entries) {
      const std::string_view name = get<std::string_view>(key, "name of a tensor");
      if (!names.insert(name).second) refuse(fmt::format("tensor {}: appears twice", shown(std::string(name))));
      PickledTensor tensor = tensors_[get<TensorValue>(value, fmt::format("entry {}", shown(std::string(name)))).number];
      tensor.name = name;
      result.push_back(std::move(tensor));
    }
    return result;
  }

  ByteCursor cursor_;
  size_t at_ = 0;  ///< byte of the opcode that is being read
  std::deque<Value> values_;  // references to them stay valid
  std::vector<Reference> stack_;
  std::map<uint32_t, Reference> memo_;  // keys are the file's: no hashing
  std::vector<PickledStorage> storages_;
  std::vector<bool> is_untyped_;
  std::vector<PickledTensor> tensors_;
};

}  // namespace

std::vector<PickledTensor> read_state_dict(std::span<const std::byte> pickle, const std::string& where) {
  if (pickle.size() > most_pickle_bytes) throw Error(ErrorKind::input, fmt::format("{}: pickle of {} bytes is over the limit of {}", where, pickle.size(), most_pickle_bytes));
  return Unpickler(pickle, where).run();
}

}  // namespace llmc
