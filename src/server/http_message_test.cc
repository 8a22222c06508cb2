// Tests for the plain pieces of the transport: http_message, sse, openai_errors, router.
#include "server/http_message.h"

#include "base/json.h"
#include "server/openai_errors.h"
#include "server/router.h"
#include "server/sse.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace nibble::server {
namespace {

TEST(HttpMessage, HeadersAreFoundInAnyCase) {
  HttpRequest request;
  request.headers = {{"X-Request-ID", "a"}, {"Accept", "b"}};
  ASSERT_NE(request.header("x-request-id"), nullptr);
  EXPECT_EQ(*request.header("x-request-id"), "a");
  EXPECT_EQ(request.header("x-request-i"), nullptr);
}

TEST(HttpMessage, PercentDecoding) {
  EXPECT_EQ(percent_decode("org%2Fname"), "org/name");
  EXPECT_EQ(percent_decode("a%2fb+c"), "a/b+c");
  EXPECT_EQ(percent_decode("50%"), "50%");
  EXPECT_EQ(percent_decode("%zz%4"), "%zz%4");
  EXPECT_EQ(percent_decode("%41"), "A");
}

TEST(HttpMessage, RequestIds) {
  EXPECT_TRUE(is_usable_request_id("abc-123 x"));
  EXPECT_FALSE(is_usable_request_id(""));
  EXPECT_FALSE(is_usable_request_id("a\nb"));
  EXPECT_FALSE(is_usable_request_id("\xC3\xA4"));
  EXPECT_TRUE(is_usable_request_id(std::string(128, 'a')));
  EXPECT_FALSE(is_usable_request_id(std::string(129, 'a')));
}

TEST(HttpMessage, JsonContentTypes) {
  const std::string good[] = {"application/json", "Application/JSON; charset=utf-8",
                              "application/problem+json ; a=b", ""};
  for (const std::string& type : good) EXPECT_TRUE(is_json_content_type(&type)) << type;
  EXPECT_TRUE(is_json_content_type(nullptr));
  const std::string bad[] = {"text/plain", "application/x-www-form-urlencoded", "json"};
  for (const std::string& type : bad) EXPECT_FALSE(is_json_content_type(&type)) << type;
}

TEST(HttpMessage, HeadBytes) {
  HttpResponse response;
  response.status = 404;
  response.headers = {{"Allow", "GET"}};
  HeadOptions options;
  options.content_length = 12;
  options.keep_alive = false;
  EXPECT_EQ(head_bytes(response, options),
            "HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nAllow: GET\r\n"
            "Content-Length: 12\r\nConnection: close\r\n\r\n");
}

TEST(HttpMessage, ChunkBytes) {
  EXPECT_EQ(chunk_bytes(std::string(26, 'x')), "1a\r\n" + std::string(26, 'x') + "\r\n");
}

TEST(Sse, Events) {
  EXPECT_EQ(sse_event("{}"), "data: {}\n\n");
  EXPECT_EQ(sse_event("{}", "message_start"), "event: message_start\ndata: {}\n\n");
  const HttpResponse head = sse_head();
  EXPECT_TRUE(head.streamed);
  EXPECT_EQ(head.content_type, "text/event-stream; charset=utf-8");
}

TEST(OpenAiErrors, BodyHasTheForm) {
  const HttpResponse response = error_response({429, "slow down", "", 7});
  EXPECT_EQ(response.status, 429);
  ASSERT_EQ(response.headers.size(), 1u);
  EXPECT_EQ(response.headers[0].name, "Retry-After");
  EXPECT_EQ(response.headers[0].value, "7");
  EXPECT_EQ(response.body, R"({"error":{"message":"slow down","type":"RateLimitError",)"
                           R"("param":null,"code":429}})");
  EXPECT_EQ(error_json({404, "x", "model", 0}),
            R"({"error":{"message":"x","type":"NotFoundError","param":"model","code":404}})");
}

TEST(OpenAiErrors, InvalidUtf8InAMessageIsReplaced) {
  const std::string body = error_json({400, "bad \xFF byte", "", 0});
  EXPECT_TRUE(parse_json(body, "test").ok()) << body;
}

TEST(OpenAiErrors, StatusOfCodes) {
  EXPECT_EQ(http_status(ErrorCode::invalid_argument), 400);
  EXPECT_EQ(http_status(ErrorCode::exhausted), 429);
  EXPECT_EQ(http_status(ErrorCode::internal), 500);
}

TEST(OpenAiErrors, EchoCutsOnCharacters) {
  EXPECT_EQ(echo("short"), "short");
  const std::string cut = echo(std::string(199, 'a') + "\xC3\xA4" + std::string(10, 'b'));
  EXPECT_EQ(cut, std::string(199, 'a') + "...");
}

TEST(OpenAiErrors, ManyProblemsAreCounted) {
  FieldErrors errors;
  for (int i = 0; i < 25; ++i) errors.add("f" + std::to_string(i), "wrong");
  const ApiError error = errors.to_api_error();
  EXPECT_EQ(error.param, "f0");
  EXPECT_NE(error.message.find("f9: wrong"), std::string::npos);
  EXPECT_EQ(error.message.find("f10: wrong"), std::string::npos);
  EXPECT_NE(error.message.find("15 more"), std::string::npos);
}

Reply nothing(AppContext&, const HttpRequest&) {
  return HttpResponse{};
}

constexpr Route kTestRoutes[] = {
    {"GET", "/a", PathMatch::exact, RunOn::io, nothing},
    {"POST", "/a", PathMatch::exact, RunOn::worker, nothing},
    {"GET", "/m/", PathMatch::prefix, RunOn::io, nothing},
};

TEST(Router, FindsMethodAndPath) {
  EXPECT_EQ(match_route(kTestRoutes, "GET", "/a").route, &kTestRoutes[0]);
  EXPECT_EQ(match_route(kTestRoutes, "POST", "/a").route, &kTestRoutes[1]);
  EXPECT_EQ(match_route(kTestRoutes, "HEAD", "/a").route, &kTestRoutes[0]);
  const RouteMatch prefix = match_route(kTestRoutes, "GET", "/m/org%2Fname/x");
  EXPECT_EQ(prefix.route, &kTestRoutes[2]);
  EXPECT_EQ(prefix.tail, "org/name/x");
}

TEST(Router, TellsUnknownPathsFromWrongMethods) {
  const RouteMatch none = match_route(kTestRoutes, "GET", "/b");
  EXPECT_EQ(none.route, nullptr);
  EXPECT_EQ(none.allowed, "");
  const RouteMatch wrong = match_route(kTestRoutes, "DELETE", "/a");
  EXPECT_EQ(wrong.route, nullptr);
  EXPECT_EQ(wrong.allowed, "GET, HEAD, POST");
  EXPECT_EQ(match_route(kTestRoutes, "GET", "/m/").allowed, "") << "a prefix needs a rest";
  EXPECT_EQ(match_route(kTestRoutes, "GET", "/a/").route, nullptr);
}

TEST(Router, TheServersTableHasNoRowTwice) {
  const std::span<const Route> routes = server_routes();
  for (size_t i = 0; i < routes.size(); ++i) {
    EXPECT_NE(routes[i].handler, nullptr);
    for (size_t j = 0; j < i; ++j) {
      EXPECT_FALSE(std::string(routes[i].path) == routes[j].path &&
                   std::string(routes[i].method) == routes[j].method)
          << routes[i].path;
    }
  }
}

}  // namespace
}  // namespace nibble::server
