// Tests for the report and the model card: what each recipe is said to load in, measured figures
// when there are some.
#include "quantize/quality_report.h"

#include "base/json.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace nibble::quantize {
namespace {

ExportJob job_of(const std::string& recipe) {
  ExportJob job;
  job.source_directory = "/somewhere/model";
  job.recipe = Recipe::find(recipe).value();
  job.scales = job.recipe.scales;
  job.calibration.data = "2 samples, 30 tokens of x.jsonl";
  job.calibration.tokens = 30;
  return job;
}

std::string card(const std::string& recipe) {
  return model_card(job_of(recipe), {});
}

bool says(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(ModelCard, EveryRecipeNamesFourLoaders) {
  for (const std::string& recipe : Recipe::names()) {
    const std::string text = card(recipe);
    for (const char* loader : {"| vLLM |", "| SGLang |", "| TensorRT-LLM |", "| llama.cpp |"}) {
      EXPECT_TRUE(says(text, loader)) << recipe << loader;
    }
    EXPECT_TRUE(says(text, "not verified by us")) << recipe;
    EXPECT_FALSE(says(text, "/somewhere")) << recipe;
  }
}

TEST(ModelCard, LoadersByRecipe) {
  EXPECT_TRUE(says(card("nvfp4-mlp"), "selects `modelopt_fp4`"));
  EXPECT_TRUE(says(card("nvfp4-mlp"), "KV scales are dropped"));
  EXPECT_TRUE(says(card("nvfp4-mlp-w4a16"), "weight-only (Marlin)"));
  EXPECT_FALSE(says(card("nvfp4-mlp-w4a16"), "KV scales"));
  EXPECT_TRUE(says(card("nvfp4-all"), "reorders their scales"));
  EXPECT_TRUE(says(card("nvfp4-mlp-fp8-attn"), "`quantized_layers`"));
  EXPECT_TRUE(says(card("nvfp4-mlp-fp8-attn"), "FP8 matrices is not known"));
  EXPECT_TRUE(says(card("nvfp4-max-speed"), "PR 45132"));
}

TEST(QualityReport, FiguresOnlyWhenMeasured) {
  const ExportJob job = job_of("nvfp4-mlp");
  ExportReport report;
  EXPECT_FALSE(says(model_card(job, report), "Against the source"));
  EXPECT_TRUE(says(quality_report_json(job, report), "\"against_source\": null"));

  MeasuredQuality quality;
  quality.text = "3 documents of a.txt";
  quality.tokens = 77;
  quality.kld = {0.00125, 0.00003};
  quality.perplexity_ratio = {1.0025, 0.0004};
  quality.same_top = 0.945;
  quality.noise = {{"token by token", 2e-6, 50}};
  report.quality = quality;
  const Json json = parse_json(quality_report_json(job, report), "report").value();
  EXPECT_EQ(json["against_source"]["kld"]["value"], 0.00125);
  EXPECT_EQ(json["against_source"]["noise_floor"][0]["tokens"], 50);
  const std::string text = model_card(job, report);
  EXPECT_TRUE(says(text, "| mean KL divergence | 0 | 0.001250 +/- 0.000030 |")) << text;
  EXPECT_TRUE(says(text, "not part of the calibration text"));
  EXPECT_TRUE(says(text, "token by token: 2.0e-06 (50 tokens)"));
  EXPECT_TRUE(says(quality_line(quality), "same top 94.50 %"));

  ExportJob table = job;  // maxima from a table: nobody knows its text
  table.calibration.tokens = 0;
  EXPECT_FALSE(says(model_card(table, report), "not part of the calibration text"));
}

}  // namespace
}  // namespace nibble::quantize
