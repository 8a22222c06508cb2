// Where in the depth two models part: hidden states and expert choices, layer by layer.
//
// Over all rows that ran, scored or not, each model with hidden states of its own run. Plain sums
// in double, in row order.
#pragma once

#include "eval/statistics.h"
#include "tensor/tensor_view.h"

#include <cstdint>

namespace nibble::eval {

/// Hidden states after one layer.
class HiddenError {
 public:
  /// base, model: [rows][H] f32 in host memory.
  void add(ConstTensorView base, ConstTensorView model);

  int64_t rows() const { return cosine_.count(); }
  /// Mean over rows.
  double cosine() const { return cosine_.mean(); }
  /// sqrt(sum |model - base|^2 / sum |base|^2) over all rows.
  double relative_rms() const;

 private:
  MeanSum cosine_;
  double squared_difference_ = 0;
  double squared_base_ = 0;
};

/// One model's routing of some rows in one layer, in host memory.
struct RoutingRows {
  ConstTensorView logits;  // [rows][E] f32
  ConstTensorView experts;  // [rows][K] i32
};

/// The routing of one layer.
class RoutingAgreement {
 public:
  void add(const RoutingRows& base, const RoutingRows& model);

  int64_t rows() const { return kld_.count(); }
  /// Share of rows whose set of experts is the same.
  Estimate same_set() const { return share(same_sets_, rows()); }
  /// Mean share of the base's experts that the model chose too.
  double overlap() const { return overlap_.mean(); }
  /// Divergence of the router's softmax over all experts.
  Estimate kld() const { return kld_.estimate(); }

 private:
  int64_t same_sets_ = 0;
  MeanSum overlap_;
  MeanSum kld_;
};

}  // namespace nibble::eval
