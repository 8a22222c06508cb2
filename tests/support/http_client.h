// HttpClient: a blocking HTTP client on one loopback socket, for tests that need to misbehave.
//
// It sends what it is given, byte for byte, and reads answers with or without chunks. Every read
// gives up after 30 s so that a broken test ends; no test depends on that time.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace nibble::test {

struct HttpAnswer {
  int status = 0;  // 0: the connection ended before a whole head
  std::vector<std::pair<std::string, std::string>> headers;  // names in lower case
  std::string body;  // without chunk framing
  bool is_complete = false;  // the body ended as its framing says

  std::string header(const std::string& lower_case_name) const;
};

class HttpClient {
 public:
  /// Connects to 127.0.0.1. `receive_buffer_bytes` > 0 makes a client that accepts little at once.
  explicit HttpClient(uint16_t port, int receive_buffer_bytes = 0);
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  bool send(const std::string& bytes);
  /// POST with a JSON body; `extra` are header lines with their CRLF.
  bool post(const std::string& path, const std::string& json, const std::string& extra = "");
  bool get(const std::string& path);
  HttpAnswer read_answer();
  /// Reads until `text` has come (head and chunk framing included) and returns all that came;
  /// without `text` at the end if the connection ended first.
  std::string read_until(const std::string& text);
  /// True if the server closes the connection (possibly after more bytes).
  bool read_end();

  void shut_down_sending();
  void close();
  /// Closes with a reset instead of an orderly end.
  void reset();

 private:
  bool fill();
  std::string take_line();
  bool take_bytes(size_t count, std::string& out);
  bool read_chunks(std::string& body);

  int socket_ = -1;
  std::string buffer_;
};

}  // namespace nibble::test
