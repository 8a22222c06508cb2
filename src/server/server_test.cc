// Tests for server and connection: real sockets on loopback against a fake engine.
//
// Order is made by what was received, never by time: the test tells the fake engine what happens
// next, and reads it from the socket.
#include "server/server.h"

#include "base/json.h"
#include "tests/support/http_client.h"
#include "tests/support/server_bench.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <future>
#include <thread>

namespace nibble::server {
namespace {

using test::chat_body;
using test::HttpAnswer;
using test::HttpClient;

constexpr const char* kChat = "/v1/chat/completions";

class ServerTest : public testing::Test {
 protected:
  ServerTest() : model_(test::fake_model(text_)), options_(test::fake_options()) {}

  void start() {
    server_ = Server::open(options_).value();
    ASSERT_TRUE(server_->serve(engine_, model_).ok());
  }
  uint16_t port() const { return server_->port(); }

  // A stream that has delivered its first token.
  void open_stream(HttpClient& client, size_t number) {
    ASSERT_TRUE(client.post(kChat, chat_body("\"stream\":true")));
    ASSERT_TRUE(engine_.wait_for_requests(number + 1));
    engine_.delta(number, "first");
    ASSERT_TRUE(client.read_until("first").ends_with("first"));
  }
  // The server still works.
  void expect_served() {
    HttpClient client(port());
    ASSERT_TRUE(client.get("/health"));
    EXPECT_EQ(client.read_answer().status, 200);
  }
  int status_of(const std::string& bytes) {
    HttpClient client(port());
    client.send(bytes);
    return client.read_answer().status;
  }

  test::FakeEngine engine_;
  test::FakeChatText text_;
  ChatModel model_;
  ServerOptions options_;
  std::unique_ptr<Server> server_;
};

TEST_F(ServerTest, KeepsTheConnectionAndEchoesTheRequestId) {
  start();
  engine_.answer_with({"Hello"});
  HttpClient client(port());
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(client.post(kChat, chat_body(), "X-Request-Id: id-7\r\n"));
    const HttpAnswer answer = client.read_answer();
    EXPECT_EQ(answer.status, 200);
    EXPECT_TRUE(answer.is_complete);
    EXPECT_EQ(answer.header("content-type"), "application/json");
    EXPECT_EQ(answer.header("x-request-id"), "id-7");
    EXPECT_EQ(answer.header("server"), "nibble/1.2.3");
    EXPECT_EQ(answer.header("connection"), "keep-alive");
    EXPECT_NE(answer.body.find("Hello"), std::string::npos);
  }
  ASSERT_TRUE(client.get("/v1/models"));
  EXPECT_EQ(client.read_answer().header("x-request-id").size(), 32u);
}

TEST_F(ServerTest, AnswersThatTheModelLoads) {
  server_ = Server::open(options_).value();
  HttpClient client(port());
  ASSERT_TRUE(client.get("/health"));
  const HttpAnswer health = client.read_answer();
  EXPECT_EQ(health.status, 503);
  EXPECT_EQ(health.header("retry-after"), "1");
  EXPECT_EQ(health.body,
            R"({"error":{"code":503,"message":"Loading model","type":"unavailable_error"}})");
  ASSERT_TRUE(client.post(kChat, chat_body()));
  const HttpAnswer chat = client.read_answer();
  EXPECT_EQ(chat.status, 503);
  EXPECT_NE(chat.body.find("ServiceUnavailableError"), std::string::npos) << chat.body;
  for (const char* path : {"/ready", "/v1/models", "/load"}) {
    ASSERT_TRUE(client.get(path));
    EXPECT_EQ(client.read_answer().status, 503) << path;
  }
  ASSERT_TRUE(client.get("/nowhere"));
  EXPECT_EQ(client.read_answer().status, 404);
  ASSERT_TRUE(server_->serve(engine_, model_).ok());
  ASSERT_TRUE(client.get("/health"));
  EXPECT_EQ(client.read_answer().status, 200) << "the same connection goes on";
}

TEST_F(ServerTest, StopsWhileTheModelLoads) {
  server_ = Server::open(options_).value();
  HttpClient client(port());
  ASSERT_TRUE(client.get("/health"));
  EXPECT_EQ(client.read_answer().status, 503);
  server_->stop(0);
  EXPECT_TRUE(client.read_end());
}

TEST_F(ServerTest, HonoursConnectionClose) {
  start();
  HttpClient client(port());
  ASSERT_TRUE(client.send("GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
  EXPECT_EQ(client.read_answer().header("connection"), "close");
  EXPECT_TRUE(client.read_end());
}

TEST_F(ServerTest, HeadHasNoBody) {
  start();
  HttpClient client(port());
  ASSERT_TRUE(
      client.send("HEAD /health HTTP/1.1\r\nHost: x\r\n\r\n"
                  "GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n"));
  const std::string head = client.read_until("\r\n\r\n");
  EXPECT_NE(head.find("Content-Length: 15\r\n"), std::string::npos) << head;
  EXPECT_EQ(client.read_answer().status, 404) << "the next answer follows at once";
}

TEST_F(ServerTest, EveryTokenIsSentWhenItComes) {
  start();
  HttpClient client(port());
  ASSERT_TRUE(client.post(kChat, chat_body("\"stream\":true")));
  ASSERT_TRUE(engine_.wait_for_requests(1));
  for (const char* token : {"alpha", "beta", "gamma"}) {
    engine_.delta(0, token);
    EXPECT_TRUE(client.read_until(token).ends_with(token));
  }
  engine_.finish(0);
  EXPECT_TRUE(client.read_until("data: [DONE]\n\n\r\n0\r\n\r\n").ends_with("0\r\n\r\n"));
  ASSERT_TRUE(client.get("/health"));
  EXPECT_EQ(client.read_answer().status, 200) << "the connection goes on after a stream";
}

TEST_F(ServerTest, EightStreamsAtOnce) {
  start();
  std::vector<std::unique_ptr<HttpClient>> clients;
  for (size_t i = 0; i < 8; ++i) {
    clients.push_back(std::make_unique<HttpClient>(port()));
    open_stream(*clients[i], i);
  }
  for (int round = 0; round < 20; ++round) {
    for (size_t i = 0; i < 8; ++i)
      engine_.delta(i, "r" + std::to_string(round) + "s" + std::to_string(i) + ".");
  }
  for (size_t i = 8; i-- > 0;) {
    for (int round = 0; round < 20; ++round) {
      const std::string token = "r" + std::to_string(round) + "s" + std::to_string(i) + ".";
      ASSERT_TRUE(clients[i]->read_until(token).ends_with(token));
    }
    engine_.finish(i);
    ASSERT_TRUE(clients[i]->read_until("[DONE]").ends_with("[DONE]"));
  }
}

TEST_F(ServerTest, AClientThatLeavesAStreamCancelsIt) {
  start();
  for (size_t i = 0; i < 2; ++i) {
    HttpClient client(port());
    open_stream(client, i);
    i == 0 ? client.close() : client.reset();
    EXPECT_TRUE(engine_.wait_for_cancelled(i + 1));
  }
  expect_served();
}

TEST_F(ServerTest, AClientThatLeavesAPlainRequestCancelsIt) {
  start();
  HttpClient client(port());
  ASSERT_TRUE(client.post(kChat, chat_body("\"n\":2")));
  ASSERT_TRUE(engine_.wait_for_requests(2));
  client.close();
  EXPECT_TRUE(engine_.wait_for_cancelled(2));
  expect_served();
}

TEST_F(ServerTest, PipelinedBytesDoNotHideThatTheClientLeft) {
  start();
  HttpClient client(port());
  open_stream(client, 0);
  ASSERT_TRUE(client.get("/health"));
  engine_.delta(0, "second");
  EXPECT_TRUE(client.read_until("second").ends_with("second")) << "pipelining is no cancel";
  client.close();
  EXPECT_TRUE(engine_.wait_for_cancelled(1));
}

TEST_F(ServerTest, HalfCloseCancelsByDefault) {
  start();
  HttpClient client(port());
  open_stream(client, 0);
  client.shut_down_sending();
  EXPECT_TRUE(engine_.wait_for_cancelled(1));
}

TEST_F(ServerTest, HalfCloseIsServedWhereAllowed) {
  options_.cancel_on_half_close = false;
  start();
  HttpClient client(port());
  open_stream(client, 0);
  client.shut_down_sending();
  engine_.delta(0, "after");
  EXPECT_TRUE(client.read_until("after").ends_with("after"));
  engine_.finish(0);
  EXPECT_TRUE(client.read_until("[DONE]").ends_with("[DONE]"));
  EXPECT_EQ(engine_.num_cancelled(), 0u);
  HttpClient gone(port());
  open_stream(gone, 1);
  gone.reset();
  EXPECT_TRUE(engine_.wait_for_cancelled(1)) << "a reset is the end in any case";
}

TEST_F(ServerTest, AClientThatDoesNotReadIsCancelled) {
  options_.max_buffered_bytes = 256 * 1024;
  start();
  HttpClient client(port(), 4096);
  open_stream(client, 0);
  // Far more than the kernel's buffers hold; the engine never waits for the client.
  for (int i = 0; i < 1000 && engine_.num_cancelled() == 0; ++i) {
    engine_.delta(0, std::string(64 * 1024, 'x'));
  }
  EXPECT_TRUE(engine_.wait_for_cancelled(1));
  expect_served();
}

TEST_F(ServerTest, AWriteThatDoesNotProgressEndsTheConnection) {
  options_.write_timeout_seconds = 0.05;
  options_.max_buffered_bytes = SIZE_MAX;
  start();
  HttpClient client(port(), 4096);
  open_stream(client, 0);
  engine_.delta(0, std::string(64 * 1024 * 1024, 'x'));
  EXPECT_TRUE(engine_.wait_for_cancelled(1));
}

TEST_F(ServerTest, OversizedBodiesAreRefused) {
  options_.max_body_bytes = 1000;
  start();
  HttpClient client(port());
  ASSERT_TRUE(client.post(kChat, chat_body("", std::string(5000, 'x'))));
  const HttpAnswer answer = client.read_answer();
  EXPECT_EQ(answer.status, 413);
  EXPECT_EQ(answer.header("connection"), "close");
  EXPECT_NE(answer.body.find("InvalidRequestError"), std::string::npos);
  EXPECT_TRUE(client.read_end());
  const std::string chunk = "400\r\n" + std::string(1024, 'x') + "\r\n";
  EXPECT_EQ(status_of("POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
                      "Transfer-Encoding: chunked\r\n\r\n" +
                      chunk + "0\r\n\r\n"),
            413);
  expect_served();
}

TEST_F(ServerTest, OversizedHeadersAreRefused) {
  start();
  const std::string start_line = "GET /health HTTP/1.1\r\nHost: x\r\n";
  EXPECT_EQ(status_of(start_line + "A: " + std::string(70000, 'x') + "\r\n\r\n"), 400);
  std::string many;
  for (int i = 0; i < 300; ++i) many += "H" + std::to_string(i) + ": x\r\n";
  EXPECT_EQ(status_of(start_line + many + "\r\n"), 400);
  expect_served();
}

TEST_F(ServerTest, MalformedHttpIsRefused) {
  start();
  EXPECT_EQ(status_of("BREW\r\n\r\n"), 400);
  EXPECT_EQ(status_of("GET / HTTP/9.9\r\n\r\n"), 400);
  EXPECT_EQ(status_of("POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n"), 400);
  expect_served();
}

TEST_F(ServerTest, ASlowHeadIsRefused) {
  options_.header_timeout_seconds = 0.05;
  start();
  HttpClient client(port());
  ASSERT_TRUE(client.send("GET /health HT"));
  EXPECT_EQ(client.read_answer().status, 408);
  EXPECT_TRUE(client.read_end());
}

TEST_F(ServerTest, AnIdleConnectionIsClosed) {
  options_.idle_timeout_seconds = 0.05;
  start();
  HttpClient client(port());
  EXPECT_TRUE(client.read_end());
}

TEST_F(ServerTest, BadJsonLeavesTheConnectionUsable) {
  start();
  engine_.answer_with({"x"});
  HttpClient client(port());
  ASSERT_TRUE(client.post(kChat, "{\"messages\": ["));
  const HttpAnswer bad = client.read_answer();
  EXPECT_EQ(bad.status, 400);
  EXPECT_NE(bad.body.find("not valid JSON"), std::string::npos);
  ASSERT_TRUE(client.post(kChat, chat_body()));
  EXPECT_EQ(client.read_answer().status, 200);
}

TEST_F(ServerTest, PipelinedRequestsAreAnsweredInOrder) {
  start();
  engine_.answer_with({"one"});
  HttpClient client(port());
  const std::string body = chat_body("\"stream\":true");
  const std::string post = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: " +
                           std::to_string(body.size()) + "\r\n\r\n" + body;
  const std::string get = "GET /version HTTP/1.1\r\nHost: x\r\n\r\n";
  ASSERT_TRUE(client.send(get + post + get + post));
  EXPECT_EQ(client.read_answer().body, R"({"version":"1.2.3"})");
  EXPECT_NE(client.read_answer().body.find("[DONE]"), std::string::npos);
  EXPECT_EQ(client.read_answer().body, R"({"version":"1.2.3"})");
  EXPECT_NE(client.read_answer().body.find("[DONE]"), std::string::npos);
  EXPECT_EQ(engine_.num_cancelled(), 0u);
}

TEST_F(ServerTest, ChunkedBodiesAndExpectContinue) {
  start();
  engine_.answer_with({"x"});
  HttpClient client(port());
  const std::string body = chat_body();
  ASSERT_TRUE(
      client.send("POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
                  "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"));
  EXPECT_EQ(client.read_answer().status, 100);
  char size[16];
  snprintf(size, sizeof(size), "%zx\r\n", body.size());
  ASSERT_TRUE(client.send(size + body + "\r\n0\r\n\r\n"));
  EXPECT_EQ(client.read_answer().status, 200);
}

TEST_F(ServerTest, AnHttp10StreamEndsWithTheConnection) {
  start();
  engine_.answer_with({"x"});
  HttpClient client(port());
  const std::string body = chat_body("\"stream\":true");
  ASSERT_TRUE(client.send("POST /v1/chat/completions HTTP/1.0\r\nContent-Length: " +
                          std::to_string(body.size()) + "\r\n\r\n" + body));
  const HttpAnswer answer = client.read_answer();
  EXPECT_EQ(answer.header("transfer-encoding"), "");
  EXPECT_TRUE(answer.body.ends_with("data: [DONE]\n\n")) << answer.body;
}

TEST_F(ServerTest, ASilentStreamSendsHeartbeats) {
  options_.heartbeat_seconds = 0.02;
  start();
  HttpClient client(port());
  ASSERT_TRUE(client.post(kChat, chat_body("\"stream\":true")));
  EXPECT_TRUE(client.read_until(": ping\n\n").ends_with(": ping\n\n"));
  EXPECT_TRUE(client.read_until(": ping\n\n").ends_with(": ping\n\n"));
  engine_.delta(0, "at last");
  engine_.finish(0);
  EXPECT_TRUE(client.read_until("[DONE]").ends_with("[DONE]"));
}

TEST_F(ServerTest, TooManyConnectionsAreTurnedAway) {
  options_.max_connections = 1;
  start();
  HttpClient first(port());
  ASSERT_TRUE(first.get("/health"));
  EXPECT_EQ(first.read_answer().status, 200);
  HttpClient second(port());
  EXPECT_TRUE(second.read_end());
  ASSERT_TRUE(first.get("/health"));
  EXPECT_EQ(first.read_answer().status, 200);
}

TEST_F(ServerTest, StopEndsStreamsThatOutlastTheTimeout) {
  start();
  HttpClient streamed(port());
  open_stream(streamed, 0);
  HttpClient plain(port());
  ASSERT_TRUE(plain.post(kChat, chat_body()));
  ASSERT_TRUE(engine_.wait_for_requests(2));
  HttpClient idle(port());
  server_->stop(0);
  const std::string rest = streamed.read_until("[DONE]");
  EXPECT_NE(rest.find(R"("finish_reason":"abort")"), std::string::npos) << rest;
  EXPECT_TRUE(rest.ends_with("[DONE]"));
  const HttpAnswer answer = plain.read_answer();
  EXPECT_NE(answer.body.find(R"("finish_reason":"abort")"), std::string::npos) << answer.body;
  EXPECT_TRUE(idle.read_end());
  EXPECT_EQ(engine_.num_active(), 0u);
}

TEST_F(ServerTest, StopLetsRunningAnswersFinish) {
  start();
  HttpClient client(port());
  open_stream(client, 0);
  std::thread stopping([this] { server_->stop(60); });
  // The listener is closed first: once it refuses, the drain has begun.
  for (bool is_refused = false; !is_refused;) {
    HttpClient late(port());
    is_refused = !late.get("/health") || late.read_answer().status != 200;
  }
  engine_.delta(0, "to the");
  engine_.delta(0, " end");
  engine_.finish(0);
  const std::string rest = client.read_until("[DONE]");
  EXPECT_NE(rest.find(R"("finish_reason":"stop")"), std::string::npos) << rest;
  EXPECT_TRUE(client.read_end());
  stopping.join();
  EXPECT_EQ(engine_.num_cancelled(), 0u);
}

TEST_F(ServerTest, ClientsThatComeAndGoLeaveNothing) {
  start();
  std::vector<std::thread> crowd;
  for (int t = 0; t < 4; ++t) {
    crowd.emplace_back([this, t] {
      for (int i = 0; i < 50; ++i) {
        HttpClient client(port());
        client.post(kChat, chat_body((t + i) % 2 == 0 ? "\"stream\":true" : ""));
        i % 3 == 0 ? client.reset() : client.close();
      }
    });
  }
  for (std::thread& thread : crowd) thread.join();
  server_->stop(0);
  EXPECT_TRUE(engine_.wait_for_idle());
}

TEST_F(ServerTest, APortInUseIsAnError) {
  start();
  ServerOptions second = options_;
  second.port = port();
  const auto result = Server::open(second);
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().code, ErrorCode::io);
  EXPECT_NE(result.error().message.find(std::to_string(port())), std::string::npos);
  ServerOptions nowhere = options_;
  nowhere.host = "no.such.host.invalid";
  EXPECT_FALSE(Server::open(nowhere).ok());
}

}  // namespace
}  // namespace nibble::server
