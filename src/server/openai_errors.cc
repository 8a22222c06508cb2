#include "server/openai_errors.h"

#include "base/check.h"
#include "base/json.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace nibble::server {
namespace {

struct ErrorType {
  int status;
  const char* type;
};

constexpr ErrorType kErrorTypes[] = {
    {400, "BadRequestError"},          {401, "AuthenticationError"},
    {403, "PermissionDeniedError"},    {404, "NotFoundError"},
    {405, "InvalidRequestError"},      {408, "InvalidRequestError"},
    {413, "InvalidRequestError"},      {415, "InvalidRequestError"},
    {422, "UnprocessableEntityError"}, {429, "RateLimitError"},
    {500, "InternalServerError"},      {501, "NotImplementedError"},
    {503, "ServiceUnavailableError"},  {504, "TimeoutError"},
};

}  // namespace

const char* error_type(int status) {
  for (const ErrorType& row : kErrorTypes) {
    if (row.status == status) return row.type;
  }
  return status < 500 ? "BadRequestError" : "InternalServerError";
}

int http_status(ErrorCode code) {
  switch (code) {
    case ErrorCode::invalid_argument:
    case ErrorCode::corrupt:
    case ErrorCode::unsupported:
      return 400;
    case ErrorCode::not_found:
      return 404;
    case ErrorCode::exhausted:
      return 429;
    case ErrorCode::permission:
      return 403;
    case ErrorCode::cancelled:
      return 503;
    case ErrorCode::io:
    case ErrorCode::network:
    case ErrorCode::internal:
      return 500;
  }
  return 500;
}

std::string error_json(const ApiError& error) {
  OrderedJson inner;
  inner["message"] = error.message;
  inner["type"] = error_type(error.status);
  if (error.param.empty()) {
    inner["param"] = nullptr;
  } else {
    inner["param"] = error.param;
  }
  inner["code"] = error.status;
  OrderedJson body;
  body["error"] = std::move(inner);
  return dump_json(body);
}

HttpResponse error_response(const ApiError& error) {
  HttpResponse response;
  response.status = error.status;
  if (error.retry_after_seconds > 0) {
    response.headers.push_back({"Retry-After", std::to_string(error.retry_after_seconds)});
  }
  response.body = error_json(error);
  return response;
}

std::string echo(const std::string& value) {
  if (value.size() <= kMaxEchoedCharacters) return value;
  size_t end = kMaxEchoedCharacters;
  while (end > 0 && (static_cast<unsigned char>(value[end]) & 0xC0) == 0x80) --end;
  return value.substr(0, end) + "...";
}

void FieldErrors::add(const std::string& param, const std::string& message) {
  if (count_ == 0) first_param_ = param;
  ++count_;
  if (messages_.size() >= kMaxReportedProblems) return;
  messages_.push_back(param.empty() ? message : fmt::format("{}: {}", param, message));
}

ApiError FieldErrors::to_api_error() const {
  NIBBLE_CHECK(count_ > 0, "no field error to report");
  ApiError error;
  error.param = first_param_;
  for (const std::string& message : messages_) {
    if (!error.message.empty()) error.message += "; ";
    error.message += message;
  }
  if (count_ > messages_.size()) {
    error.message += fmt::format("; and {} more problems", count_ - messages_.size());
  }
  return error;
}

}  // namespace nibble::server
