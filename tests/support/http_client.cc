#include "tests/support/http_client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdlib>

namespace nibble::test {
namespace {

constexpr time_t kReadSeconds = 30;

}  // namespace

std::string HttpAnswer::header(const std::string& lower_case_name) const {
  for (const auto& [name, value] : headers) {
    if (name == lower_case_name) return value;
  }
  return "";
}

HttpClient::HttpClient(uint16_t port, int receive_buffer_bytes)
    : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  if (receive_buffer_bytes > 0) {
    setsockopt(socket_, SOL_SOCKET, SO_RCVBUF, &receive_buffer_bytes, sizeof(int));
  }
  const timeval limit{kReadSeconds, 0};
  setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
  const int on = 1;
  setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(socket_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) close();
}

HttpClient::~HttpClient() {
  close();
}

bool HttpClient::send(const std::string& bytes) {
  size_t sent = 0;
  while (sent < bytes.size()) {
    const ssize_t n = ::send(socket_, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
    if (n <= 0) return false;
    sent += static_cast<size_t>(n);
  }
  return true;
}

bool HttpClient::post(const std::string& path, const std::string& json, const std::string& extra) {
  return send("POST " + path +
              " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" + extra +
              "Content-Length: " + std::to_string(json.size()) + "\r\n\r\n" + json);
}

bool HttpClient::get(const std::string& path) {
  return send("GET " + path + " HTTP/1.1\r\nHost: localhost\r\n\r\n");
}

bool HttpClient::fill() {
  char bytes[16384];
  const ssize_t n = recv(socket_, bytes, sizeof(bytes), 0);
  if (n <= 0) return false;
  buffer_.append(bytes, static_cast<size_t>(n));
  return true;
}

std::string HttpClient::take_line() {
  size_t end = 0;
  while ((end = buffer_.find("\r\n")) == std::string::npos) {
    if (!fill()) return "";
  }
  std::string line = buffer_.substr(0, end);
  buffer_.erase(0, end + 2);
  return line;
}

bool HttpClient::take_bytes(size_t count, std::string& out) {
  while (buffer_.size() < count) {
    if (!fill()) return false;
  }
  out.append(buffer_, 0, count);
  buffer_.erase(0, count);
  return true;
}

bool HttpClient::read_chunks(std::string& body) {
  for (;;) {
    const std::string line = take_line();
    if (line.empty()) return false;
    const size_t size = std::strtoul(line.c_str(), nullptr, 16);
    std::string chunk;
    if (!take_bytes(size + 2, chunk)) return false;
    body.append(chunk, 0, size);
    if (size == 0) return true;
  }
}

HttpAnswer HttpClient::read_answer() {
  HttpAnswer answer;
  const std::string status = take_line();
  if (status.size() < 12) return answer;
  for (std::string line = take_line(); !line.empty(); line = take_line()) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos) break;
    std::string name = line.substr(0, colon);
    std::transform(name.begin(), name.end(), name.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    answer.headers.emplace_back(name, line.substr(line.find_first_not_of(' ', colon + 1)));
  }
  answer.status = std::atoi(status.c_str() + 9);
  if (answer.status == 100) return answer;
  if (answer.header("transfer-encoding") == "chunked") {
    answer.is_complete = read_chunks(answer.body);
  } else if (!answer.header("content-length").empty()) {
    const size_t length = std::strtoul(answer.header("content-length").c_str(), nullptr, 10);
    answer.is_complete = take_bytes(length, answer.body);
  } else {
    while (fill()) {
    }
    answer.body = std::exchange(buffer_, {});
    answer.is_complete = true;
  }
  return answer;
}

std::string HttpClient::read_until(const std::string& text) {
  size_t found = 0;
  while ((found = buffer_.find(text)) == std::string::npos) {
    if (!fill()) return std::exchange(buffer_, {});
  }
  std::string out = buffer_.substr(0, found + text.size());
  buffer_.erase(0, out.size());
  return out;
}

bool HttpClient::read_end() {
  char bytes[16384];
  ssize_t n = 0;
  while ((n = recv(socket_, bytes, sizeof(bytes), 0)) > 0) {
  }
  return n == 0 || errno == ECONNRESET;
}

void HttpClient::shut_down_sending() {
  shutdown(socket_, SHUT_WR);
}

void HttpClient::close() {
  if (socket_ >= 0) ::close(socket_);
  socket_ = -1;
}

void HttpClient::reset() {
  const linger now{1, 0};
  setsockopt(socket_, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
  close();
}

}  // namespace nibble::test
