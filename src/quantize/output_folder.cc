#include "quantize/output_folder.h"

#include "base/file.h"
#include "base/hash.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <span>
#include <stdio.h>
#include <vector>

namespace nibble::quantize {
namespace {

namespace fs = std::filesystem;

// Files of our own inside a partial folder begin like this.
constexpr const char* kNotePrefix = ".nibble-";
constexpr const char* kJobNote = ".nibble-job";
constexpr const char* kProgressNote = ".nibble-progress";
// What the job note of a folder says that is about to be replaced.
constexpr const char* kReplaced = "replaced\n";

Error filesystem_error(const std::string& path, const std::error_code& code) {
  return errno_error(path, code.value());
}

// A folder with our job file, or with nothing in it but an unfinished one.
Result<bool> is_ours(const std::string& folder) {
  NIBBLE_ASSIGN_OR_RETURN(const std::vector<std::string> names, list_directory(folder));
  const auto is_note = [](const std::string& name) { return name.starts_with(kNotePrefix); };
  return std::find(names.begin(), names.end(), kJobNote) != names.end() ||
         std::all_of(names.begin(), names.end(), is_note);
}

void remove_last_notes(const std::string& folder) {
  std::error_code ignored;
  fs::remove(folder + "/" + kProgressNote, ignored);
  fs::remove(folder + "/" + kJobNote, ignored);
}

// The job file goes last, or a folder emptied half would not be known as ours.
Result<void> remove_all_but_job(const std::string& folder) {
  NIBBLE_ASSIGN_OR_RETURN(const std::vector<std::string> names, list_directory(folder));
  std::error_code failure;
  for (const std::string& name : names) {
    if (name == kJobNote) continue;
    fs::remove_all(folder + "/" + name, failure);
    if (failure) return filesystem_error(folder + "/" + name, failure);
  }
  return {};
}

}  // namespace

Result<std::string> check_destination(const std::string& destination, Existing existing) {
  const size_t end = destination.find_last_not_of('/');
  if (end == std::string::npos) {
    return Error{ErrorCode::invalid_argument,
                 "destination '" + destination + "': expected the name of a new folder"};
  }
  const std::string trimmed = destination.substr(0, end + 1);
  std::error_code failure;
  if (existing == Existing::refuse && fs::exists(fs::symlink_status(trimmed, failure))) {
    // Notes in it are of a run that was killed when all was done, or of one that is replacing it.
    const Result<std::string> job = read_file(trimmed + "/" + kJobNote);
    if (job.ok() && job.value() != kReplaced) remove_last_notes(trimmed);
    return Error{ErrorCode::invalid_argument,
                 trimmed + ": exists already; give --overwrite or another destination"};
  }
  return trimmed;
}

Result<OutputFolder> OutputFolder::open(const std::string& destination, const std::string& job,
                                        Existing existing) {
  NIBBLE_ASSIGN_OR_RETURN(const std::string trimmed, check_destination(destination, existing));
  OutputFolder folder(trimmed, trimmed + ".partial");
  std::error_code failure;
  fs::create_directories(folder.partial_, failure);
  if (failure) return filesystem_error(folder.partial_, failure);
  NIBBLE_RETURN_IF_ERROR(folder.lock());
  NIBBLE_RETURN_IF_ERROR(folder.claim(job));
  return folder;
}

OutputFolder::OutputFolder(OutputFolder&& other) noexcept
    : destination_(std::move(other.destination_)),
      partial_(std::move(other.partial_)),
      lock_fd_(std::exchange(other.lock_fd_, -1)),
      continues_(other.continues_) {}

OutputFolder& OutputFolder::operator=(OutputFolder&& other) noexcept {
  std::swap(destination_, other.destination_);
  std::swap(partial_, other.partial_);
  std::swap(lock_fd_, other.lock_fd_);
  std::swap(continues_, other.continues_);
  return *this;
}

OutputFolder::~OutputFolder() {
  if (lock_fd_ >= 0) ::close(lock_fd_);
}

std::string OutputFolder::note(const std::string& name) const {
  return partial_ + "/" + kNotePrefix + name;
}

std::string OutputFolder::progress_note() const {
  return file(kProgressNote);
}

Result<void> OutputFolder::lock() {
  lock_fd_ = ::open(partial_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (lock_fd_ < 0) return errno_error(partial_, errno);
  if (::flock(lock_fd_, LOCK_EX | LOCK_NB) == 0) return {};
  if (errno != EWOULDBLOCK) return {};  // a file system without locks
  return Error{ErrorCode::invalid_argument, partial_ + ": another nibble is writing it"};
}

Result<void> OutputFolder::claim(const std::string& job) {
  NIBBLE_ASSIGN_OR_RETURN(const bool ours, is_ours(partial_));
  if (!ours) {
    return Error{ErrorCode::invalid_argument,
                 partial_ +
                     ": exists and was not made by nibble quantize; remove it, or choose "
                     "another destination"};
  }
  const std::string fingerprint = sha256_hex(std::as_bytes(std::span(job))) + "\n";
  const Result<std::string> earlier = read_file(file(kJobNote));
  continues_ = earlier.ok() && earlier.value() == fingerprint;
  if (continues_) return {};
  NIBBLE_RETURN_IF_ERROR(remove_all_but_job(partial_));
  return write_file_atomic(file(kJobNote), fingerprint);
}

// At every moment the destination is either the old folder or the new one.
Result<void> OutputFolder::swap_with_old() {
  std::error_code failure;
  if (fs::is_directory(destination_, failure)) {
    // Killed after the exchange, the old folder lies under the partial name: marked as ours.
    NIBBLE_RETURN_IF_ERROR(write_file_atomic(destination_ + "/" + kJobNote, kReplaced));
  }
  if (::renameat2(AT_FDCWD, partial_.c_str(), AT_FDCWD, destination_.c_str(), RENAME_EXCHANGE) ==
      0) {
    fs::remove_all(partial_, failure);
    return {};
  }
  // A file system that cannot exchange: for a moment nothing has the destination's name.
  const std::string old = destination_ + ".old";
  fs::remove_all(old, failure);
  fs::rename(destination_, old, failure);
  if (failure) return filesystem_error(destination_, failure);
  fs::rename(partial_, destination_, failure);
  if (failure) return filesystem_error(partial_, failure);
  fs::remove_all(old, failure);
  return {};
}

Result<void> OutputFolder::publish() {
  std::error_code failure;
  NIBBLE_ASSIGN_OR_RETURN(const std::vector<std::string> names, list_directory(partial_));
  for (const std::string& name : names) {
    const bool is_note = name.starts_with(kNotePrefix) && name != kJobNote && name != kProgressNote;
    if (is_note || name.ends_with(".tmp")) fs::remove(file(name), failure);
  }
  NIBBLE_RETURN_IF_ERROR(sync_directory(partial_));
  if (fs::exists(fs::symlink_status(destination_, failure))) {
    NIBBLE_RETURN_IF_ERROR(swap_with_old());
  } else {
    fs::rename(partial_, destination_, failure);
    if (failure) return filesystem_error(partial_, failure);
  }
  // Killed here, a finished folder keeps two small hidden files until check_destination() sees it.
  remove_last_notes(destination_);
  return sync_directory(fs::absolute(destination_).parent_path().string());
}

void OutputFolder::discard() {
  std::error_code ignored;
  fs::remove_all(partial_, ignored);
}

}  // namespace nibble::quantize
