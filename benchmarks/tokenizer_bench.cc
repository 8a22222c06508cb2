// Encoding, decoding and loading speed of one tokenizer on one text, single thread.
//
//   NIBBLE_BENCH_TOKENIZER  folder or tokenizer.json   (default: the demo model)
//   NIBBLE_BENCH_TEXT       text file                  (default: the demo model's calibration
//   records)
// Run from the repository root. bytes_per_second counts UTF-8 bytes of text.
#include "base/file.h"
#include "tokenizer/incremental_decoder.h"
#include "tokenizer/tokenizer.h"

#include <benchmark/benchmark.h>

#include <cstdio>
#include <cstdlib>
#include <string>

namespace {

using nibble::tokenizer::AddedTokens;
using nibble::tokenizer::IncrementalDecoder;
using nibble::tokenizer::SkipSpecial;
using nibble::tokenizer::Tokenizer;

std::string setting(const char* name, const char* fallback) {
  const char* value = std::getenv(name);
  return value == nullptr ? fallback : value;
}

void encode(benchmark::State& state, const Tokenizer& tokenizer, const std::string& text) {
  size_t tokens = 0;
  for (auto _ : state) {
    const auto ids = tokenizer.encode(text, AddedTokens::parse);
    tokens = ids.size();
    benchmark::DoNotOptimize(ids.data());
  }
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(text.size()));
  state.counters["bytes_per_token"] =
      static_cast<double>(text.size()) / static_cast<double>(tokens == 0 ? 1 : tokens);
}

void decode_streaming(benchmark::State& state, const Tokenizer& tokenizer,
                      const std::string& text) {
  const auto ids = tokenizer.encode(text, AddedTokens::parse);
  for (auto _ : state) {
    IncrementalDecoder decoder(tokenizer, SkipSpecial::no);
    for (const int32_t id : ids) benchmark::DoNotOptimize(decoder.feed(id));
    benchmark::DoNotOptimize(decoder.flush());
  }
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(text.size()));
}

void load(benchmark::State& state, const std::string& path) {
  for (auto _ : state) {
    const auto tokenizer = Tokenizer::load(path);
    benchmark::DoNotOptimize(tokenizer.ok());
  }
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  const std::string path = setting("NIBBLE_BENCH_TOKENIZER", "models/demo/tokenizer.json");
  const auto tokenizer = Tokenizer::load(path);
  const auto text =
      nibble::read_file(setting("NIBBLE_BENCH_TEXT", "models/demo/calibration.jsonl"));
  if (!tokenizer.ok() || !text.ok()) {
    const auto& error = tokenizer.ok() ? text.error() : tokenizer.error();
    std::fprintf(stderr, "%s\n", error.message.c_str());
    return 1;
  }
  benchmark::RegisterBenchmark("encode/text", encode, tokenizer.value(), text.value());
  // One word of a million characters: the case a quadratic merge loop hangs on.
  benchmark::RegisterBenchmark("encode/one_word", encode, tokenizer.value(),
                               std::string(1000000, 'a'));
  benchmark::RegisterBenchmark("decode/streaming", decode_streaming, tokenizer.value(),
                               text.value());
  benchmark::RegisterBenchmark("load", load, path)->Unit(benchmark::kMillisecond);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
