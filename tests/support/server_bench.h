// ServerBench: what a test of the server needs around it - fake engine, fake template, options.
#pragma once

#include "server/chat_model.h"
#include "server/options.h"
#include "tests/support/fake_chat_text.h"
#include "tests/support/fake_engine.h"

#include <string>

namespace nibble::test {

/// Token the fake model ends with; not a byte.
inline constexpr int32_t kEndToken = 300;

inline server::ChatModel fake_model(const server::ChatText& text) {
  server::ChatModel model{text, {}, {kEndToken}, 301, "models/fake", "{}"};
  model.defaults.temperature = 0.6f;
  return model;
}

inline server::ServerOptions fake_options() {
  server::ServerOptions options;
  options.port = 0;
  options.served_model_names = {"fake", "org/fake"};
  options.version = "1.2.3";
  return options;
}

/// A chat body with one user message and more members ("\"stream\":true").
inline std::string chat_body(const std::string& members = "", const std::string& text = "hi") {
  return R"({"messages":[{"role":"user","content":")" + text + R"("}])" +
         (members.empty() ? "" : "," + members) + "}";
}

}  // namespace nibble::test
