// Tests for statistics files: the same statistics come back, files of something else are refused.
#include "quantize/statistics_file.h"

#include "quantize/calibration.h"
#include "quantize/member_table.h"
#include "quantize/token_file.h"
#include "tests/support/quantize_model.h"

#include <gtest/gtest.h>

namespace nibble::quantize {
namespace {

class StatisticsFileTest : public testing::Test {
 protected:
  // Runs the golden source's calibration and records it; returns what was gathered.
  std::map<int, LayerStatistics> record(bool moments) {
    CalibrationRequest request;
    request.sequences =
        read_token_file(std::string(kGoldens) + "/source/calibration_tokens.json").value();
    request.gathered.moments = moments;
    request.scratch = model_.output("");
    const auto calibrator = Calibrator::open(model_.device(), model_.source(), request,
                                             [](int64_t, int64_t) { return true; });
    CalibrationSummary summary;
    summary.data = "golden tokens";
    const StatisticsRecorder recorder(path_, model_.output("note-"), identity_, summary, 4);
    std::map<int, LayerStatistics> out;
    for (const int layer : {0, 1, 2, 3, kOutsideLayers}) {
      out[layer] = calibrator.value()->layer(layer).value();
      EXPECT_TRUE(recorder.add(layer, out[layer]).ok());
    }
    return out;
  }
  std::string refusal(const StatisticsIdentity& wanted, bool needs_moments) {
    const auto opened = StatisticsFile::open(path_, wanted, needs_moments);
    return opened.ok() ? "" : opened.error().message;
  }

  TestModel model_;
  std::string path_ = model_.output("statistics");
  StatisticsIdentity identity_{"source-digest", "calibration-digest"};
};

TEST_F(StatisticsFileTest, GivesBackWhatWasGathered) {
  const auto gathered = record(true);
  const auto file = StatisticsFile::open(path_, identity_, true);
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_EQ(file.value().summary().data, "golden tokens");
  for (const auto& [layer, wanted] : gathered) {
    const auto found = file.value().layer(layer);
    ASSERT_TRUE(found.ok()) << found.error().message;
    EXPECT_EQ(found.value().maxima.values(), wanted.maxima.values());
    EXPECT_EQ(found.value().experts_seen, wanted.experts_seen);
    EXPECT_EQ(found.value().moments.mixer_in.sums(), wanted.moments.mixer_in.sums());
    ASSERT_EQ(found.value().moments.expert_down.size(), wanted.moments.expert_down.size());
    for (size_t e = 0; e < wanted.moments.expert_down.size(); ++e) {
      EXPECT_EQ(found.value().moments.expert_down[e].sums(), wanted.moments.expert_down[e].sums());
      EXPECT_EQ(found.value().moments.expert_down[e].weight(),
                wanted.moments.expert_down[e].weight());
    }
  }
}

TEST_F(StatisticsFileTest, RefusesWhatItWasNotMadeFrom) {
  record(false);
  EXPECT_EQ(refusal(identity_, false), "");
  const std::string other_source = refusal({"other", "calibration-digest"}, false);
  EXPECT_NE(other_source.find("made from source source-diges"), std::string::npos) << other_source;
  EXPECT_NE(other_source.find("this run has source other"), std::string::npos) << other_source;
  const std::string other_text = refusal({"source-digest", "something"}, false);
  EXPECT_NE(other_text.find("calibration something"), std::string::npos) << other_text;
  EXPECT_NE(refusal(identity_, true).find("no second moments"), std::string::npos);
}

TEST_F(StatisticsFileTest, OneValueChangesTheSourcesDigest) {
  TestModel changed([](TestTensors& tensors, std::string&) {
    tensors["model.language_model.layers.2.mlp.gate.weight"].set_bf16(3, 0.75f);
  });
  const auto first = source_digest(model_.checkpoint(), model_.folder());
  EXPECT_EQ(first.value(), source_digest(TestModel().checkpoint(), model_.folder()).value());
  EXPECT_NE(first.value(), source_digest(changed.checkpoint(), changed.folder()).value());
}

}  // namespace
}  // namespace nibble::quantize
