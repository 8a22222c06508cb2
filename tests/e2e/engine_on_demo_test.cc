// The engine on the demo model: golden answers, and the same logits alone and in company, bit for
// bit.
//
// Company means other prompts in the same steps, prompts cut into other chunks, other numbers of
// threads; within one ISA level.
#include "base/hash.h"
#include "runtime/engine.h"
#include "tests/e2e/demo_model.h"
#include "tests/support/allocation_count.h"
#include "tests/support/recording_sink.h"
#include "tokenizer/tokenizer.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace nibble::runtime {
namespace {

struct Golden {
  std::string id;
  std::vector<int32_t> prompt, greedy;
  std::vector<std::pair<int32_t, float>> top5;
};

std::vector<Golden> text_goldens() {
  std::istringstream lines(value_or_die(read_file("models/demo/eval/goldens.jsonl")));
  std::vector<Golden> goldens;
  for (std::string line; std::getline(lines, line);) {
    const Json json = value_or_die(parse_json(line, "goldens.jsonl"));
    if (json.contains("images")) continue;
    goldens.push_back({json["id"], json["prompt_ids"], json["greedy"], json["top5"]});
  }
  return goldens;
}

const tokenizer::Tokenizer& demo_tokenizer() {
  static const auto tokenizer = value_or_die(tokenizer::Tokenizer::load("models/demo"));
  return tokenizer;
}

EngineLimits limits_of(int32_t seqs, int32_t batched) {
  EngineLimits limits;
  limits.max_num_seqs = seqs;
  limits.max_num_batched_tokens = batched;
  limits.max_model_len = 1024;
  limits.num_pages = 16 * seqs;
  limits.verify_invariants = true;
  return limits;
}

Request request_of(const Golden& golden, uint64_t seed) {
  Request request;
  request.prompt_tokens = golden.prompt;
  request.sampling.temperature = 0.0f;
  request.sampling.seed = seed;
  request.sampling.top_logprobs = -1;
  request.max_tokens = static_cast<int32_t>(golden.greedy.size());
  return request;
}

/// Passes steps on and keeps the bits of every logits row by (request's seed, token number).
class LogitsRecorder final : public Executor {
 public:
  explicit LogitsRecorder(ModelExecutor& executor) : executor_(executor) {}

  Result<void> run(const Step& step, std::span<device::SampleResult> results) override {
    const int64_t before = allocations_of_this_thread();
    NIBBLE_RETURN_IF_ERROR(executor_.run(step, results));
    allocations += allocations_of_this_thread() - before;
    const ConstTensorView logits = executor_.logits();
    for (const device::SampleRow& sample : step.samples) {
      const ConstTensorView row = logits.slice_rows(sample.logits_row, 1);
      std::vector<float> copy(static_cast<size_t>(row.row_elements()));
      std::memcpy(copy.data(), row.data(), row.bytes());
      rows[{sample.seed, sample.draw_index}] = std::move(copy);
    }
    return {};
  }
  int32_t vocab_size() const override { return executor_.vocab_size(); }

  std::map<std::pair<uint64_t, uint64_t>, std::vector<float>> rows;
  int64_t allocations = 0;

 private:
  ModelExecutor& executor_;
};

struct Answer {
  std::vector<int32_t> tokens;
  Finish finish;
};

std::vector<Answer> answer_all(Executor& executor, const EngineLimits& limits,
                               const std::vector<Request>& requests) {
  const auto engine = Engine::start(executor, demo_tokenizer(), limits);
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (const Request& request : requests) {
    sinks.push_back(std::make_shared<RecordingSink>());
    EXPECT_TRUE(engine->submit(request, sinks.back()).ok());
  }
  std::vector<Answer> answers;
  for (const auto& sink : sinks) {
    sink->wait_for_finish();
    answers.push_back({sink->tokens(), sink->finish()});
  }
  return answers;
}

TEST(EngineOnDemo, GoldenAnswersAndLogits) {
  const auto goldens = text_goldens();
  ASSERT_GE(goldens.size(), 5u);
  DemoModel model(device::Arithmetic::f32, detect_isa_level(), 2);
  const EngineLimits limits = limits_of(8, 256);
  const auto executor = model.make_executor(limits, DType::f32);
  LogitsRecorder recorder(*executor);
  std::vector<Request> requests;
  for (size_t i = 0; i < goldens.size(); ++i) requests.push_back(request_of(goldens[i], i));
  const auto answers = answer_all(recorder, limits, requests);
  for (size_t i = 0; i < goldens.size(); ++i) {
    EXPECT_EQ(answers[i].tokens, goldens[i].greedy) << goldens[i].id;
    const std::vector<float>& logits = recorder.rows.at({i, 0});
    for (const auto& [token, logit] : goldens[i].top5) {
      EXPECT_NEAR(logits[static_cast<size_t>(token)], logit, 1e-3 * std::abs(logit))
          << goldens[i].id << " token " << token;
    }
  }
}

/// Rows of one request in one run, compared with those of another run.
void expect_same_bits(const LogitsRecorder& a, const LogitsRecorder& b, const char* what) {
  ASSERT_EQ(a.rows.size(), b.rows.size()) << what;
  for (const auto& [key, row] : a.rows) {
    const auto found = b.rows.find(key);
    ASSERT_NE(found, b.rows.end()) << what;
    ASSERT_EQ(std::memcmp(row.data(), found->second.data(), row.size() * sizeof(float)), 0)
        << what << ": request " << key.first << " token " << key.second;
  }
}

class EngineOnDemoLevels : public testing::TestWithParam<IsaLevel> {};

TEST_P(EngineOnDemoLevels, SameBitsAloneAndInCompany) {
  const auto goldens = text_goldens();
  std::vector<Request> requests;
  for (size_t i = 0; i < 8; ++i) {
    Request request = request_of(goldens[i % goldens.size()], i);
    if (i >= goldens.size()) request.prompt_tokens.erase(request.prompt_tokens.begin() + 3);
    request.max_tokens = std::min(request.max_tokens, 24);
    requests.push_back(request);
  }

  DemoModel model(device::Arithmetic::exact, GetParam(), 1);
  const EngineLimits one_by_one = limits_of(1, 2048);
  const auto alone_executor = model.make_executor(one_by_one, DType::bf16);
  LogitsRecorder alone(*alone_executor);
  answer_all(alone, one_by_one, requests);

  const EngineLimits chunked = limits_of(8, 72);
  const auto chunked_executor = model.make_executor(chunked, DType::bf16);
  LogitsRecorder together(*chunked_executor);
  answer_all(together, chunked, requests);
  EXPECT_GT(alone.rows.size(), 100u);
  expect_same_bits(alone, together, "together, chunks of 64, one thread");

  DemoModel two_threads(device::Arithmetic::exact, GetParam(), 2);
  const EngineLimits wide = limits_of(8, 1000);
  const auto wide_executor = two_threads.make_executor(wide, DType::bf16);
  LogitsRecorder wide_steps(*wide_executor);
  answer_all(wide_steps, wide, requests);
  expect_same_bits(alone, wide_steps, "together, long chunks, two threads");
}

INSTANTIATE_TEST_SUITE_P(Levels, EngineOnDemoLevels,
                         testing::ValuesIn(isa_levels_up_to(detect_isa_level())),
                         [](const auto& level) { return isa_level_name(level.param); });

TEST(EngineOnDemo, Fp8PagesGiveTheSameAnswersHere) {
  const auto goldens = text_goldens();
  DemoModel model(device::Arithmetic::exact, detect_isa_level(), 2);
  const EngineLimits limits = limits_of(4, 256);
  const auto executor = model.make_executor(limits, DType::f8_e4m3);
  std::vector<Request> requests;
  for (size_t i = 0; i < 2; ++i) requests.push_back(request_of(goldens[i], i));
  const auto answers = answer_all(*executor, limits, requests);
  for (size_t i = 0; i < 2; ++i) EXPECT_EQ(answers[i].tokens, goldens[i].greedy);
}

TEST(EngineOnDemo, AStepOfTheModelAllocatesNothing) {
  if (!counts_allocations()) GTEST_SKIP() << "a sanitizer owns operator new";
  const auto goldens = text_goldens();
  DemoModel model(device::Arithmetic::exact, detect_isa_level(), 2);
  const EngineLimits limits = limits_of(4, 128);
  const auto executor = model.make_executor(limits, DType::bf16);
  LogitsRecorder recorder(*executor);
  std::vector<Request> requests;
  for (size_t i = 0; i < goldens.size(); ++i) {
    requests.push_back(request_of(goldens[i], i));
    requests.back().sampling.temperature = 0.8f;
    requests.back().sampling.top_p = 0.9f;
    requests.back().sampling.presence_penalty = 0.5f;
    requests.back().sampling.top_logprobs = 5;
  }
  answer_all(recorder, limits, requests);
  EXPECT_GT(recorder.rows.size(), 50u);
  EXPECT_EQ(recorder.allocations, 0) << "on the engine thread, inside ModelExecutor::run";
}

TEST(EngineOnDemo, SampledAnswersFollowTheSeedOnly) {
  const auto goldens = text_goldens();
  DemoModel model(device::Arithmetic::exact, detect_isa_level(), 2);
  const EngineLimits limits = limits_of(6, 200);
  const auto executor = model.make_executor(limits, DType::bf16);
  std::vector<Request> requests;
  for (uint64_t i = 0; i < 6; ++i) {
    requests.push_back(request_of(goldens[2], i / 2));
    requests.back().sampling.temperature = 1.5f;
    requests.back().max_tokens = 30;
  }
  const auto answers = answer_all(*executor, limits, requests);
  EXPECT_EQ(answers[0].tokens, answers[1].tokens);
  EXPECT_EQ(answers[4].tokens, answers[5].tokens);
  EXPECT_NE(answers[0].tokens, answers[2].tokens);
  EXPECT_NE(answers[2].tokens, answers[4].tokens);
}

}  // namespace
}  // namespace nibble::runtime
