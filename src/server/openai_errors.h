// Request errors in OpenAI form: {"error":{"message","type","param","code"}}, code = HTTP status.
//
// The one table from status to `type` and the one from ErrorCode to status lie here. Messages never
// hold paths of the machine or stack traces; offending values are cut to 200 characters.
#pragma once

#include "base/result.h"
#include "server/http_message.h"

#include <string>
#include <vector>

namespace nibble::server {

inline constexpr size_t kMaxEchoedCharacters = 200;
inline constexpr size_t kMaxReportedProblems = 10;

struct ApiError {
  int status = 400;
  std::string message;
  std::string param;  // dotted path of the field; empty: none (null in the answer)
  int retry_after_seconds = 0;  // > 0: Retry-After header
};

/// `type` member for a status: "BadRequestError", "NotFoundError", ...
const char* error_type(int status);

/// HTTP status for an Error of another module.
int http_status(ErrorCode code);

/// The body, one line of JSON.
std::string error_json(const ApiError& error);

HttpResponse error_response(const ApiError& error);

/// At most kMaxEchoedCharacters characters of `value` on a UTF-8 boundary, "..." where cut.
std::string echo(const std::string& value);

/// Collects what is wrong with one request. The answer names the first problem's field and lists at
/// most kMaxReportedProblems messages.
class FieldErrors {
 public:
  /// `param`: dotted path such as "messages.2.content".
  void add(const std::string& param, const std::string& message);
  bool empty() const { return count_ == 0; }
  /// Status 400. Must not be empty.
  ApiError to_api_error() const;

 private:
  size_t count_ = 0;
  std::string first_param_;
  std::vector<std::string> messages_;
};

}  // namespace nibble::server
