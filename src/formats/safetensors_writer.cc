#include "formats/safetensors_writer.h"

#include "base/file.h"
#include "base/json.h"
#include "formats/safetensors_header.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>

namespace nibble::formats {
namespace {

constexpr size_t kPrefix = 8;

std::vector<const TensorSpec*> layout_order(const std::vector<TensorSpec>& tensors) {
  std::vector<const TensorSpec*> order;
  for (const TensorSpec& tensor : tensors) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [](const TensorSpec* a, const TensorSpec* b) {
    const size_t a_size = dtype_bytes(a->dtype);
    const size_t b_size = dtype_bytes(b->dtype);
    return a_size != b_size ? a_size > b_size : a->name < b->name;
  });
  return order;
}

// Length prefix and JSON, padded with spaces so that the data starts at a multiple of 8.
std::string header_text(const std::vector<const TensorSpec*>& order) {
  std::string json = R"({"__metadata__":{"format":"pt"})";
  size_t offset = 0;
  for (const TensorSpec* tensor : order) {
    const size_t end = offset + tensor->bytes();
    json += fmt::format(R"(,{}:{{"dtype":"{}","shape":{},"data_offsets":[{},{}]}})",
                        dump_json(Json(tensor->name)), dtype_name(tensor->dtype),
                        to_string(tensor->shape), offset, end);
    offset = end;
  }
  json += '}';
  json.append((8 - json.size() % 8) % 8, ' ');
  const uint64_t length = json.size();
  std::string text(kPrefix, '\0');
  std::memcpy(text.data(), &length, kPrefix);
  return text + json;
}

Result<void> write_at(int fd, size_t offset, std::span<const std::byte> bytes,
                      const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t n = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno_error(path, errno);
    bytes = bytes.subspan(static_cast<size_t>(n));
    offset += static_cast<size_t>(n);
  }
  return {};
}

std::string folder_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash + 1);
}

std::string temporary_name(const std::string& path) {
  return path + ".tmp";
}

}  // namespace

Result<void> SafetensorsWriter::place(const std::vector<const TensorSpec*>& order,
                                      size_t data_offset) {
  size_t offset = data_offset;
  for (const TensorSpec* tensor : order) {
    if (!slots_.emplace(tensor->name, Slot{offset, tensor->bytes()}).second) {
      return Error{ErrorCode::invalid_argument,
                   fmt::format("{}: tensor {} declared twice", path_, quoted_name(tensor->name))};
    }
    offset += tensor->bytes();
  }
  missing_bytes_ = offset - data_offset;
  return {};
}

Result<void> SafetensorsWriter::write_header(const std::string& header) const {
  const std::string temporary = temporary_name(path_);
  // Reserving the space now reports a full disk before hours of work.
  const size_t size = header.size() + missing_bytes_;
  if (::fallocate(fd_, 0, 0, static_cast<off_t>(size)) != 0 && errno != EOPNOTSUPP) {
    return errno_error(temporary, errno);
  }
  return write_at(fd_, 0, std::as_bytes(std::span(header)), temporary);
}

Result<SafetensorsWriter> SafetensorsWriter::create(const std::string& path,
                                                    const std::vector<TensorSpec>& tensors) {
  const auto order = layout_order(tensors);
  const std::string header = header_text(order);
  const std::string temporary = temporary_name(path);
  const int fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return errno_error(temporary, errno);
  SafetensorsWriter writer(path, fd);
  NIBBLE_RETURN_IF_ERROR(writer.place(order, header.size()));
  NIBBLE_RETURN_IF_ERROR(writer.write_header(header));
  return writer;
}

Result<SafetensorsWriter> SafetensorsWriter::go_on(const std::string& path,
                                                   const std::vector<TensorSpec>& tensors,
                                                   const WrittenTensors& written) {
  const bool any = std::any_of(tensors.begin(), tensors.end(),
                               [&](const TensorSpec& tensor) { return written(tensor.name); });
  if (!any) {
    NIBBLE_ASSIGN_OR_RETURN(SafetensorsWriter writer, create(path, tensors));
    writer.keeps_temporary_ = true;
    return writer;
  }
  const auto order = layout_order(tensors);
  const std::string header = header_text(order);
  const std::string temporary = temporary_name(path);
  const int fd = ::open(temporary.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) return errno_error(temporary, errno);
  SafetensorsWriter writer(path, fd);
  writer.keeps_temporary_ = true;
  NIBBLE_RETURN_IF_ERROR(writer.place(order, header.size()));
  std::string found(header.size(), '\0');
  const off_t end = ::lseek(fd, 0, SEEK_END);
  if (end != static_cast<off_t>(header.size() + writer.missing_bytes_) ||
      ::pread(fd, found.data(), found.size(), 0) != static_cast<ssize_t>(found.size()) ||
      found != header) {
    return Error{ErrorCode::corrupt,
                 temporary + ": is not the file that an interrupted run was writing"};
  }
  for (auto& [name, slot] : writer.slots_) {
    if (!written(name)) continue;
    writer.missing_bytes_ -= std::exchange(slot.missing_bytes, 0);
  }
  return writer;
}

SafetensorsWriter::SafetensorsWriter(SafetensorsWriter&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::exchange(other.fd_, -1)),
      keeps_temporary_(other.keeps_temporary_),
      slots_(std::move(other.slots_)),
      missing_bytes_(other.missing_bytes_) {}

SafetensorsWriter& SafetensorsWriter::operator=(SafetensorsWriter&& other) noexcept {
  if (this == &other) return *this;
  abandon();
  path_ = std::move(other.path_);
  fd_ = std::exchange(other.fd_, -1);
  keeps_temporary_ = other.keeps_temporary_;
  slots_ = std::move(other.slots_);
  missing_bytes_ = other.missing_bytes_;
  return *this;
}

SafetensorsWriter::~SafetensorsWriter() {
  abandon();
}

void SafetensorsWriter::abandon() {
  if (fd_ < 0) return;
  ::close(fd_);
  if (!keeps_temporary_) ::unlink(temporary_name(path_).c_str());
  fd_ = -1;
}

Result<void> SafetensorsWriter::append(std::string_view name, std::span<const std::byte> bytes) {
  NIBBLE_CHECK(fd_ >= 0, "append() after finish()", path_);
  const auto it = slots_.find(name);
  NIBBLE_CHECK(it != slots_.end(), "tensor was not declared", std::string(name));
  Slot& slot = it->second;
  NIBBLE_CHECK(bytes.size() <= slot.missing_bytes, "more bytes than the tensor has",
               std::string(name), bytes.size(), slot.missing_bytes);
  NIBBLE_RETURN_IF_ERROR(write_at(fd_, slot.offset, bytes, temporary_name(path_)));
  // The disk begins now, so that sync() finds little left to wait for. A hint: it may fail.
  ::sync_file_range(fd_, static_cast<off64_t>(slot.offset), static_cast<off64_t>(bytes.size()),
                    SYNC_FILE_RANGE_WRITE);
  slot.offset += bytes.size();
  slot.missing_bytes -= bytes.size();
  missing_bytes_ -= bytes.size();
  return {};
}

Result<void> SafetensorsWriter::sync() const {
  if (::fdatasync(fd_) != 0) return errno_error(temporary_name(path_), errno);
  return {};
}

Result<void> SafetensorsWriter::finish() {
  NIBBLE_CHECK(fd_ >= 0 && complete(), "finish() of an incomplete file", path_, missing_bytes_);
  const std::string temporary = temporary_name(path_);
  if (::fsync(fd_) != 0) return errno_error(temporary, errno);
  if (::close(std::exchange(fd_, -1)) != 0) return errno_error(temporary, errno);
  if (::rename(temporary.c_str(), path_.c_str()) != 0) return errno_error(path_, errno);
  return sync_directory(folder_of(path_));
}

}  // namespace nibble::formats
