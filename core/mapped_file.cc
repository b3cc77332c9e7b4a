#include "core/mapped_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <mutex>
#include <utility>

#include "core/error.h"
#include "core/printable.h"

namespace llmc {

namespace {

/// A map by its address, for a signal handler, which may not take a lock or memory.
struct Place {
  std::atomic<const std::byte*> begin = nullptr;
  std::atomic<size_t> size = 0;
  std::array<char, 1024> message = {};  ///< for when a page of it is lost
};
std::array<Place, 1024> places;  // files beyond these are not named
std::mutex places_in_use;

void remember(const void* address, size_t size, const std::filesystem::path& path) {
  const std::scoped_lock lock(places_in_use);
  const auto place = std::ranges::find_if(places, [](const Place& p) { return p.begin == nullptr; });
  if (place == places.end()) return;
  const std::string message = fmt::format("llmc: error: {}: cannot be read any more; it has become shorter, or its disk fails\n", shorten(printable(path.string()), 800));
  place->message[message.copy(place->message.data(), place->message.size() - 1)] = '\0';
  place->size = size;
  place->begin = static_cast<const std::byte*>(address);
}

void forget(const void* address) {
  const std::scoped_lock lock(places_in_use);
  const auto place = std::ranges::find_if(places, [&](const Place& p) { return p.begin == address; });
  if (place != places.end()) place->begin = nullptr;
}

int lost_page_code = 0;

extern "C" void end_on_lost_page(int number, siginfo_t* info, void*) {
  static std::atomic_flag is_told;
  const auto* at = static_cast<const std::byte*>(info->si_addr);
  for (const Place& place : places) {
    const std::byte* begin = place.begin;
    if (info->si_code <= 0 || !begin || at < begin || at >= begin + place.size) continue;
    while (is_told.test_and_set()) ::pause();  // another thread tells it, and ends the process
    [[maybe_unused]] const ssize_t told = ::write(STDERR_FILENO, place.message.data(), std::strlen(place.message.data()));
    ::_exit(lost_page_code);
  }
  ::signal(number, SIG_DFL);  // sent by somebody, or at no address of ours
  ::raise(number);
}

}  // namespace

void exit_on_lost_pages(int code) {
  lost_page_code = code;
  struct sigaction action{};
  action.sa_sigaction = end_on_lost_page;
  action.sa_flags = SA_SIGINFO;
  ::sigaction(SIGBUS, &action, nullptr);
}

MappedFile::MappedFile(const std::filesystem::path& path) : path_(path) {
  const auto fail = [&](const char* what) {
    throw Error(ErrorKind::input, fmt::format("{}: cannot {}: {}", path.string(), what, std::strerror(errno)));
  };
  // A named pipe without a writer would block for ever otherwise; it is then refused as no regular file.
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) fail("open");
  struct stat status{};
  const bool known = ::fstat(descriptor, &status) == 0;
  if (!known || !S_ISREG(status.st_mode)) {
    ::close(descriptor);
    if (!known) fail("read its size");
    throw Error(ErrorKind::input, fmt::format("{}: not a regular file", path.string()));
  }
  size_ = static_cast<size_t>(status.st_size);
  if (size_ > 0) {
    address_ = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, descriptor, 0);
    if (address_ == MAP_FAILED) {
      address_ = nullptr;
      ::close(descriptor);
      fail("map");
    }
    remember(address_, size_, path);
  }
  ::close(descriptor);
}

MappedFile::~MappedFile() {
  if (!address_) return;
  forget(address_);
  ::munmap(address_, size_);
}

void MappedFile::release_pages() const {
  if (address_) ::madvise(address_, size_, MADV_DONTNEED);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)), address_(std::exchange(other.address_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(address_, other.address_);
  std::swap(size_, other.size_);
  return *this;
}

std::string read_text_file(const std::filesystem::path& path) { return std::string(MappedFile(path).text()); }

}  // namespace llmc
