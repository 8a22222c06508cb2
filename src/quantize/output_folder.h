// OutputFolder: the folder a checkpoint is made in, under a name that cannot be taken for a
// finished one.
//
// Work happens in DESTINATION.partial; publish() renames it when everything is there and synced
// (design.md 3.14), so a folder named DESTINATION is complete, whatever happened. A partial folder
// of the same job is continued, one of another job is emptied. It is locked while in use.
#pragma once

#include "base/result.h"

#include <string>
#include <utility>

namespace nibble::quantize {

/// What to do with a destination that exists.
enum class Existing { refuse, replace };

/// `destination` without slashes at its end; refused when it is empty, the file system's root, or
/// when it exists and must not. Such a folder is finished; notes that a kill inside publish() left
/// in it are removed.
Result<std::string> check_destination(const std::string& destination, Existing existing);

/// Move-only. One thread at a time. Dropped before publish(), it leaves the work to be continued.
class OutputFolder {
 public:
  /// `job` is a text that decides every byte of the result: only work of an equal job is continued.
  /// Errors: an existing destination, a partial folder that is in use or that is not ours.
  static Result<OutputFolder> open(const std::string& destination, const std::string& job,
                                   Existing existing);

  OutputFolder(OutputFolder&& other) noexcept;
  OutputFolder& operator=(OutputFolder&& other) noexcept;
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;
  ~OutputFolder();

  /// The folder to write in.
  const std::string& partial() const { return partial_; }
  /// Path of a file inside it.
  std::string file(const std::string& name) const { return partial_ + "/" + name; }
  /// A file of ours that must not be published: removed by publish().
  std::string note(const std::string& name) const;
  /// The note that says what is done. It outlives the folder's other notes, so that a run killed
  /// inside publish() has nothing left to do but to publish.
  std::string progress_note() const;
  /// True when open() found work of the same job.
  bool continues() const { return continues_; }

  /// Gives the folder its name. An old destination is replaced in one step and then removed. Killed
  /// on the way, the same job goes on, or the finished folder keeps two hidden notes of ours until
  /// check_destination() refuses it.
  Result<void> publish();

  /// Removes the partial folder and all that is in it.
  void discard();

 private:
  OutputFolder(std::string destination, std::string partial)
      : destination_(std::move(destination)), partial_(std::move(partial)) {}
  Result<void> lock();
  Result<void> claim(const std::string& job);
  Result<void> swap_with_old();

  std::string destination_;
  std::string partial_;
  int lock_fd_ = -1;
  bool continues_ = false;
};

}  // namespace nibble::quantize
