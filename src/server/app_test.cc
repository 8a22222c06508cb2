// Tests for app: requests through the routes and handlers to the last byte of the answer, without
// sockets, against a fake engine.
#include "server/app.h"

#include "server/sse.h"
#include "tests/support/server_bench.h"

#include <gtest/gtest.h>

#include <condition_variable>
#include <limits>
#include <mutex>
#include <thread>

namespace nibble::server {
namespace {

using test::chat_body;
using test::FakeEngine;

struct Answer {
  HttpResponse head;
  std::string body;
  std::vector<OrderedJson> events;  // of a stream, without [DONE]
  bool is_done = false;  // the stream ended with [DONE]
};

// Takes parts until the last, sleeping on the wake function in between.
Answer finish_reply(Reply reply) {
  Answer answer;
  if (auto* whole = std::get_if<HttpResponse>(&reply)) {
    answer.head = *whole;
    answer.body = whole->body;
    return answer;
  }
  PendingReply& pending = *std::get<std::unique_ptr<PendingReply>>(reply);
  std::mutex mutex;
  std::condition_variable woken;
  bool is_woken = false;
  pending.set_wake([&] {
    const std::lock_guard lock(mutex);
    is_woken = true;
    woken.notify_all();
  });
  for (;;) {
    ReplyPart part = pending.take(false);
    if (part.head.has_value()) {
      answer.head = *part.head;
      answer.body = answer.head.body;
    }
    answer.body += part.chunk;
    if (part.last) break;
    if (!part.empty()) continue;
    std::unique_lock lock(mutex);
    woken.wait(lock, [&] { return is_woken; });
    is_woken = false;
  }
  return answer;
}

void split_events(Answer& answer) {
  size_t begin = 0;
  for (size_t end = 0; (end = answer.body.find("\n\n", begin)) != std::string::npos;) {
    const std::string event = answer.body.substr(begin, end - begin);
    begin = end + 2;
    ASSERT_EQ(event.substr(0, 6), "data: ") << event;
    answer.is_done = event == "data: [DONE]";
    if (answer.is_done) continue;
    answer.events.push_back(parse_ordered_json(event.substr(6), "event").value());
  }
  EXPECT_EQ(begin, answer.body.size());
}

class AppTest : public testing::Test {
 protected:
  AppTest() : model_(test::fake_model(text_)), options_(test::fake_options()) {
    app_ = std::make_unique<App>(options_);
    EXPECT_TRUE(app_->serve(engine_, model_).ok());
  }

  Answer send(const std::string& method, const std::string& path, const std::string& body = "",
              std::vector<HttpHeader> headers = {}) {
    HttpRequest request;
    request.method = method;
    request.path = path;
    request.headers = std::move(headers);
    request.body = body;
    app_->name_request(request);
    return finish_reply(app_->handle(request));
  }
  Answer chat(const std::string& members, const std::string& text = "hi") {
    return send("POST", "/v1/chat/completions", chat_body(members, text));
  }
  OrderedJson chat_json(const std::string& members, const std::string& text = "hi") {
    const Answer answer = chat(members, text);
    EXPECT_EQ(answer.head.status, 200) << answer.body;
    return parse_ordered_json(answer.body, "answer").value();
  }
  Answer stream(const std::string& members) {
    std::string all = "\"stream\":true";
    if (!members.empty()) all.append(",").append(members);
    Answer answer = chat(all);
    EXPECT_EQ(answer.head.status, 200) << answer.body;
    split_events(answer);
    EXPECT_TRUE(answer.is_done);
    return answer;
  }

  test::FakeEngine engine_;
  test::FakeChatText text_;
  ChatModel model_;
  ServerOptions options_;
  std::unique_ptr<App> app_;
  size_t asked_ = 0;
};

void expect_error(const Answer& answer, int status, const std::string& type) {
  EXPECT_EQ(answer.head.status, status) << answer.body;
  const OrderedJson body = parse_ordered_json(answer.body, "error").value();
  EXPECT_EQ(body["error"]["code"], status);
  EXPECT_EQ(body["error"]["type"], type);
  EXPECT_TRUE(body["error"]["message"].is_string());
}

TEST_F(AppTest, StatusRoutes) {
  EXPECT_EQ(send("GET", "/health").body, R"({"status":"ok"})");
  EXPECT_EQ(send("GET", "/ready").head.status, 200);
  EXPECT_EQ(send("GET", "/version").body, R"({"version":"1.2.3"})");
  const Answer models = send("GET", "/v1/models");
  const OrderedJson list = parse_ordered_json(models.body, "models").value();
  ASSERT_EQ(list["data"].size(), 2u);
  EXPECT_EQ(list["object"], "list");
  EXPECT_EQ(list["data"][0]["id"], "fake");
  EXPECT_EQ(list["data"][0]["object"], "model");
  EXPECT_EQ(list["data"][0]["max_model_len"], 4096);
  EXPECT_EQ(list["data"][0]["root"], "models/fake");
}

TEST_F(AppTest, ModelById) {
  EXPECT_EQ(send("GET", "/v1/models/org%2Ffake").head.status, 200);
  EXPECT_EQ(send("GET", "/v1/models/org/fake").head.status, 200);
  expect_error(send("GET", "/v1/models/other"), 404, "NotFoundError");
}

TEST_F(AppTest, RoutingErrors) {
  expect_error(send("GET", "/nowhere"), 404, "NotFoundError");
  const Answer wrong = send("GET", "/v1/chat/completions");
  expect_error(wrong, 405, "InvalidRequestError");
  EXPECT_EQ(wrong.head.headers[0].name, "Allow");
  EXPECT_EQ(wrong.head.headers[0].value, "POST");
  expect_error(send("POST", "/v1/chat/completions", "{}", {{"Content-Type", "text/plain"}}), 415,
               "InvalidRequestError");
}

TEST_F(AppTest, PlainAnswer) {
  engine_.answer_with({"Hello", ", ", "world"});
  const OrderedJson json = chat_json(R"("model":"org/fake","max_tokens":50,"seed":7)");
  EXPECT_EQ(json["object"], "chat.completion");
  EXPECT_EQ(json["model"], "fake");
  EXPECT_EQ(json["id"].get<std::string>().size(), std::string("chatcmpl-").size() + 32);
  const OrderedJson& choice = json["choices"][0];
  EXPECT_EQ(choice["message"]["role"], "assistant");
  EXPECT_EQ(choice["message"]["content"], "Hello, world");
  EXPECT_FALSE(choice["message"].contains("reasoning_content"));
  EXPECT_FALSE(choice["message"].contains("tool_calls"));
  EXPECT_TRUE(choice["logprobs"].is_null());
  EXPECT_EQ(choice["finish_reason"], "stop");
  EXPECT_TRUE(choice["stop_reason"].is_null());
  const auto prompt = std::string("<user>hi<assistant>").size();
  EXPECT_EQ(json["usage"]["prompt_tokens"], prompt);
  EXPECT_EQ(json["usage"]["completion_tokens"], 3);
  EXPECT_EQ(json["usage"]["total_tokens"], prompt + 3);
  const runtime::Request request = engine_.request(0);
  EXPECT_EQ(request.max_tokens, 50);
  EXPECT_EQ(request.sampling.seed, 7u);
  EXPECT_FLOAT_EQ(request.sampling.temperature, 0.6f);
  EXPECT_EQ(request.stop_token_ids, std::vector<int32_t>{test::kEndToken});
}

TEST_F(AppTest, MaxTokensIsLoweredToTheRoom) {
  engine_.mutable_limits().max_model_len = 30;
  engine_.answer_with({"x"});
  const int32_t room = 30 - static_cast<int32_t>(std::string("<user>hi<assistant>").size());
  (void)chat_json("\"max_tokens\":32000");
  (void)chat_json("");
  EXPECT_EQ(engine_.request(0).max_tokens, room);
  EXPECT_EQ(engine_.request(1).max_tokens, room);
}

TEST_F(AppTest, APromptThatDoesNotFit) {
  engine_.mutable_limits().max_model_len = 19;
  const Answer answer = chat("");
  expect_error(answer, 400, "BadRequestError");
  EXPECT_NE(answer.body.find("maximum context length is 19 tokens"), std::string::npos);
  EXPECT_NE(answer.body.find(R"("param":"messages")"), std::string::npos);
}

TEST_F(AppTest, RequestErrors) {
  expect_error(send("POST", "/v1/chat/completions", "{\"messages\":"), 400, "BadRequestError");
  expect_error(send("POST", "/v1/chat/completions", ""), 400, "BadRequestError");
  expect_error(send("POST", "/v1/chat/completions", "[1]"), 400, "BadRequestError");
  expect_error(chat(R"("model":"other")"), 404, "NotFoundError");
  expect_error(chat(R"("temperature":-1)"), 400, "BadRequestError");
  const Answer raised = chat("", "raise");
  expect_error(raised, 400, "BadRequestError");
  EXPECT_NE(raised.body.find("the template raised"), std::string::npos);
  EXPECT_EQ(engine_.num_active(), 0u);
}

TEST_F(AppTest, EngineRefusals) {
  engine_.refuse_with({ErrorCode::exhausted, "queue full (2 of 2)"});
  const Answer busy = chat("");
  expect_error(busy, 429, "RateLimitError");
  EXPECT_EQ(busy.head.headers[0].name, "Retry-After");
  engine_.refuse_with({ErrorCode::invalid_argument, "token out of range"});
  expect_error(chat(""), 400, "BadRequestError");
}

TEST_F(AppTest, DrainingRefusesNewWork) {
  app_->start_draining();
  const Answer answer = chat("");
  expect_error(answer, 503, "ServiceUnavailableError");
  EXPECT_EQ(answer.head.headers[0].name, "Retry-After");
  EXPECT_EQ(send("GET", "/ready").head.status, 503);
  EXPECT_EQ(send("GET", "/health").head.status, 200);
}

TEST_F(AppTest, ReasoningIsSplit) {
  engine_.answer_with({"let me", " think", "</think>", "\n\n", "42"});
  const OrderedJson json = chat_json(R"("chat_template_kwargs":{"enable_thinking":true})");
  const OrderedJson& message = json["choices"][0]["message"];
  EXPECT_EQ(message["reasoning_content"], "let me think");
  EXPECT_EQ(message["reasoning"], "let me think");
  EXPECT_EQ(message["content"], "42");
  EXPECT_EQ(json["usage"]["completion_tokens_details"]["reasoning_tokens"], 3);
}

TEST_F(AppTest, ReasoningCutByLengthHasNoContent) {
  std::thread test([this] {
    ASSERT_TRUE(engine_.wait_for_requests(1));
    engine_.delta(0, "still thinking");
    engine_.finish(0, runtime::FinishReason::length);
  });
  const OrderedJson json = chat_json(R"("reasoning_effort":"high")");
  test.join();
  EXPECT_TRUE(json["choices"][0]["message"]["content"].is_null());
  EXPECT_EQ(json["choices"][0]["message"]["reasoning_content"], "still thinking");
  EXPECT_EQ(json["choices"][0]["finish_reason"], "length");
}

TEST_F(AppTest, HiddenReasoning) {
  engine_.answer_with({"secret", "</think>", "\n\n", "42"});
  const std::string members = R"("reasoning_effort":"high","include_reasoning":false)";
  const OrderedJson json = chat_json(members);
  EXPECT_FALSE(json["choices"][0]["message"].contains("reasoning_content"));
  EXPECT_EQ(json["choices"][0]["message"]["content"], "42");
  EXPECT_EQ(stream(members).body.find("secret"), std::string::npos);
}

TEST_F(AppTest, Stream) {
  engine_.answer_with({"Hello", " world"});
  const Answer answer = stream(R"("stream_options":{"include_usage":true})");
  EXPECT_EQ(answer.head.content_type, "text/event-stream; charset=utf-8");
  ASSERT_EQ(answer.events.size(), 5u);
  for (const OrderedJson& event : answer.events) {
    EXPECT_EQ(event["object"], "chat.completion.chunk");
    EXPECT_EQ(event["id"], answer.events[0]["id"]);
    EXPECT_EQ(event["model"], "fake");
  }
  const auto choice = [&answer](size_t i) { return answer.events[i]["choices"][0]; };
  EXPECT_EQ(dump_json(choice(0)["delta"]), R"({"role":"assistant","content":""})");
  EXPECT_EQ(dump_json(choice(1)["delta"]), R"({"content":"Hello"})");
  EXPECT_TRUE(choice(1)["finish_reason"].is_null());
  EXPECT_EQ(dump_json(choice(2)["delta"]), R"({"content":" world"})");
  EXPECT_EQ(dump_json(choice(3)["delta"]), "{}");
  EXPECT_EQ(choice(3)["finish_reason"], "stop");
  EXPECT_FALSE(answer.events[3].contains("usage"));
  EXPECT_TRUE(answer.events[4]["choices"].empty());
  EXPECT_EQ(answer.events[4]["usage"]["completion_tokens"], 2);
}

TEST_F(AppTest, StreamOfReasoning) {
  engine_.answer_with({"a", "b</th", "ink>\n\nc", "d"});
  const Answer answer = stream(R"("reasoning_effort":"high")");
  std::string reasoning;
  std::string content;
  for (const OrderedJson& event : answer.events) {
    const OrderedJson& delta = event["choices"][0]["delta"];
    EXPECT_EQ(delta.value("reasoning", ""), delta.value("reasoning_content", ""));
    reasoning += delta.value("reasoning_content", "");
    content += delta.value("content", "");
  }
  EXPECT_EQ(reasoning, "ab");
  EXPECT_EQ(content, "cd");
}

TEST_F(AppTest, ContinuousUsage) {
  engine_.answer_with({"a", "b"});
  const Answer answer = stream(R"("stream_options":{"continuous_usage_stats":true})");
  for (const OrderedJson& event : answer.events) EXPECT_TRUE(event.contains("usage"));
  EXPECT_EQ(answer.events.back()["usage"]["completion_tokens"], 2);
}

TEST_F(AppTest, SeveralChoices) {
  engine_.answer_with({"x", "y"});
  const OrderedJson json = chat_json(R"("n":3,"seed":5)");
  ASSERT_EQ(json["choices"].size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(json["choices"][i]["index"], i);
    EXPECT_EQ(json["choices"][i]["message"]["content"], "xy");
    EXPECT_EQ(engine_.request(i).sampling.seed, 5 + i);
  }
  EXPECT_EQ(json["usage"]["completion_tokens"], 6);
  const Answer streamed = stream(R"("n":2)");
  int finished = 0;
  for (const OrderedJson& event : streamed.events) {
    finished += event["choices"][0]["finish_reason"].is_null() ? 0 : 1;
  }
  EXPECT_EQ(finished, 2);
}

runtime::Delta with_logprobs(const std::string& text, bool hold_text) {
  runtime::Delta delta;
  delta.text = hold_text ? "" : text;
  delta.tokens = {static_cast<unsigned char>(text[0])};
  runtime::TokenLogprob logprob;
  logprob.token = delta.tokens[0];
  logprob.logprob = -0.5f;
  logprob.top = {{'z', -0.25f}, {0xC3, -std::numeric_limits<float>::infinity()}};
  delta.logprobs = {logprob};
  return delta;
}

TEST_F(AppTest, Logprobs) {
  std::thread test([this] {
    ASSERT_TRUE(engine_.wait_for_requests(1));
    engine_.delta(0, with_logprobs("a", false));
    engine_.finish(0);
  });
  const OrderedJson json = chat_json(R"("logprobs":true,"top_logprobs":2)");
  test.join();
  EXPECT_EQ(engine_.request(0).sampling.top_logprobs, 2);
  const OrderedJson& entry = json["choices"][0]["logprobs"]["content"][0];
  EXPECT_EQ(entry["token"], "a");
  EXPECT_EQ(entry["logprob"], -0.5);
  EXPECT_EQ(dump_json(entry["bytes"]), "[97]");
  ASSERT_EQ(entry["top_logprobs"].size(), 2u);
  EXPECT_EQ(entry["top_logprobs"][0]["token"], "z");
  EXPECT_EQ(entry["top_logprobs"][1]["logprob"], -9999.0);
  EXPECT_EQ(dump_json(entry["top_logprobs"][1]["bytes"]), "[195]");
}

TEST_F(AppTest, LogprobsOfHeldTextComeWithTheText) {
  std::thread test([this] {
    ASSERT_TRUE(engine_.wait_for_requests(1));
    engine_.delta(0, with_logprobs("a", true));
    engine_.delta(0, with_logprobs("b", false));
    engine_.finish(0);
  });
  const Answer answer = stream(R"("logprobs":true)");
  test.join();
  ASSERT_EQ(answer.events.size(), 3u) << "role, text, end";
  EXPECT_EQ(answer.events[1]["choices"][0]["logprobs"]["content"].size(), 2u);
}

TEST_F(AppTest, StopReasons) {
  const auto ask = [this](const std::string& members, runtime::Finish finish) {
    const size_t number = asked_++;
    std::thread test([this, number, &finish] {
      ASSERT_TRUE(engine_.wait_for_requests(number + 1));
      engine_.finish(number, finish);
    });
    const OrderedJson json = chat_json(members);
    test.join();
    return dump_json(json["choices"][0]["stop_reason"]);
  };
  runtime::Finish finish;
  finish.stop_string = "END";
  EXPECT_EQ(ask(R"("stop":"END")", finish), "\"END\"");
  finish = {};
  finish.stop_token = 65;
  EXPECT_EQ(ask(R"("stop_token_ids":[65])", finish), "65");
  finish.stop_token = test::kEndToken;
  EXPECT_EQ(ask("", finish), "null") << "the model's own end";
  EXPECT_EQ(engine_.request(1).stop_token_ids, (std::vector<int32_t>{test::kEndToken, 65}));
}

TEST_F(AppTest, EngineFailureBeforeAndAfterTheFirstToken) {
  runtime::Finish failure;
  failure.reason = runtime::FinishReason::error;
  failure.error = "device lost at /secret/path";
  std::thread test([&] {
    ASSERT_TRUE(engine_.wait_for_requests(1));
    engine_.finish(0, failure);
    ASSERT_TRUE(engine_.wait_for_requests(2));
    engine_.finish(1, failure);
    ASSERT_TRUE(engine_.wait_for_requests(3));
    engine_.delta(2, "a");
    engine_.finish(2, failure);
  });
  const Answer plain = chat("");
  expect_error(plain, 500, "InternalServerError");
  EXPECT_EQ(plain.body.find("secret"), std::string::npos);
  expect_error(chat("\"stream\":true"), 500, "InternalServerError");
  const Answer late = stream("");
  test.join();
  EXPECT_EQ(late.events.back()["error"]["code"], 500);
}

TEST_F(AppTest, ACancelledRequestSaysAbort) {
  std::thread test([this] {
    ASSERT_TRUE(engine_.wait_for_requests(1));
    engine_.delta(0, "part");
    engine_.cancel(1);
  });
  const OrderedJson json = chat_json("");
  test.join();
  EXPECT_EQ(json["choices"][0]["finish_reason"], "abort");
  EXPECT_EQ(json["choices"][0]["message"]["content"], "part");
}

TEST_F(AppTest, AnAbandonedReplyCancelsEveryChoice) {
  HttpRequest request;
  request.method = "POST";
  request.path = "/v1/chat/completions";
  request.body = chat_body("\"n\":2,\"stream\":true");
  { const Reply reply = app_->handle(request); }
  EXPECT_TRUE(engine_.wait_for_cancelled(2));
  EXPECT_EQ(engine_.num_active(), 0u);
}

TEST_F(AppTest, HeartbeatOfASilentStream) {
  HttpRequest request;
  request.method = "POST";
  request.path = "/v1/chat/completions";
  request.body = chat_body("\"stream\":true");
  Reply reply = app_->handle(request);
  PendingReply& pending = *std::get<std::unique_ptr<PendingReply>>(reply);
  EXPECT_TRUE(pending.take(false).empty());
  const ReplyPart first = pending.take(true);
  ASSERT_TRUE(first.head.has_value());
  EXPECT_EQ(first.chunk, kSsePing);
  const ReplyPart second = pending.take(true);
  EXPECT_FALSE(second.head.has_value());
  EXPECT_EQ(second.chunk, kSsePing);
}

TEST_F(AppTest, RequestIds) {
  engine_.answer_with({"x"});
  const Answer named =
      send("POST", "/v1/chat/completions", chat_body(), {{"X-Request-Id", "my-id"}});
  EXPECT_EQ(parse_ordered_json(named.body, "answer").value()["id"], "chatcmpl-my-id");
  HttpRequest request;
  app_->name_request(request);
  EXPECT_EQ(request.request_id.size(), 32u);
  HttpResponse response;
  app_->add_common_headers(request, response);
  ASSERT_EQ(response.headers.size(), 2u);
  EXPECT_EQ(response.headers[0].value, "nibble/1.2.3");
  EXPECT_EQ(response.headers[1].value, request.request_id);
}

}  // namespace
}  // namespace nibble::server
