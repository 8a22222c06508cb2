// ServerOptions: the server's settings and limits, one struct filled by the front end.
//
// Defaults are those of spec serving.md 3.1 and 13. A limit is named here, never a number in code.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace nibble::server {

struct ServerOptions {
  std::string host = "127.0.0.1";  // address or name to bind
  uint16_t port = 8000;  // 0: any free one, see Server::port()
  std::vector<std::string> served_model_names;  // at least one; the first is echoed
  std::string version = "0";  // of the product, for the Server header and system_fingerprint

  int io_threads = 2;  // sockets and HTTP
  int worker_threads = 2;  // templates and tokenization
  size_t max_connections = 4096;
  size_t max_header_bytes = 64 * 1024;
  size_t max_headers = 256;
  size_t max_body_bytes = 64 * 1024 * 1024;
  size_t max_buffered_bytes = 4 * 1024 * 1024;  // unread events of one stream, then it is cancelled
  int32_t max_choices = 128;  // `n`
  int32_t max_logprobs = 20;

  double header_timeout_seconds = 30;  // first byte of a request to end of headers
  double idle_timeout_seconds = 75;  // between requests of one connection
  double body_timeout_seconds = 60;  // without a new byte of the body
  double write_timeout_seconds = 60;  // one write that does not progress
  double heartbeat_seconds = 15;  // silence of a stream before a comment line is sent
  bool cancel_on_half_close = true;  // a client that shut down its sending side counts as gone
};

}  // namespace nibble::server
