#include "quantize/export_layout.h"

#include <string_view>

namespace nibble::quantize {
namespace {

using model::Member;

class LayoutMaker {
 public:
  LayoutMaker(const model::CheckpointSource& source, const formats::Checkpoint& checkpoint,
              const FormatPlan& plan, ExportLayout& layout)
      : source_(source), checkpoint_(checkpoint), plan_(plan), layout_(layout) {}

  // Sorts the copies into units 0 (outside the layers) and 1 + layer.
  void find_copies() {
    layout_.units.resize(1 + plan_.layer_types().size());
    for (const std::string_view name : checkpoint_.names()) {
      layout_.all_weights += checkpoint_.find(name)->shape.elements();
      if (!is_copied(name)) continue;
      layout_.units[unit_of(name)].copies.emplace_back(name);
    }
  }

  void add_units() {
    for (size_t i = 0; i < layout_.units.size(); ++i) {
      ExportUnit& unit = layout_.units[i];
      unit.layer = i == 0 ? kOutsideLayers : static_cast<int>(i) - 1;
      for (const std::string& name : unit.copies) {
        const formats::TensorInfo& tensor = *checkpoint_.find(name);
        layout_.tensors.push_back({tensor.name, exported_dtype(tensor), tensor.shape});
      }
      if (i > 0) add_layer(unit.layer);
      unit.end = layout_.tensors.size();
    }
    add_matrix(Member::lm_head, kOutsideLayers, 0);
    layout_.units.push_back({kOutsideLayers, {}, true, layout_.tensors.size()});
  }

 private:
  void add_layer(int layer) {
    for (int64_t e = 0; e < source_.config().num_experts; ++e) {
      for (const Member member : kExpertMembers) add_matrix(member, layer, e);
    }
    for (const Member member : kSharedMembers) add_matrix(member, layer, 0);
    for (const Member member : plan_.dense_members(layer)) add_matrix(member, layer, 0);
    if (!plan_.has_kv_scales(layer)) return;
    for (const auto& [member, suffix] : kKvScales) {
      layout_.tensors.push_back({source_.prefix().stem(member, layer) + suffix, DType::f32, {}});
    }
  }

  void add_matrix(Member member, int layer, int64_t expert) {
    const ModuleFormat format = plan_.of(member, layer);
    if (format == ModuleFormat::bf16) return;
    const std::string stem = source_.prefix().stem(member, layer, expert);
    const Shape shape = model::expected_shape(member, source_.config());
    layout_.quantized_weights += shape.elements();
    if (is_nvfp4(format)) {
      add({stem + ".weight", DType::u8, Shape{shape[0], shape[1] / 2}});
      add({stem + ".weight_scale", DType::f8_e4m3, Shape{shape[0], shape[1] / 16}});
      add({stem + ".weight_scale_2", DType::f32, Shape{}});
    } else {
      add({stem + ".weight", DType::f8_e4m3, shape});
      add({stem + ".weight_scale", DType::f32, Shape{}});
    }
    if (has_input_scale(format)) add({stem + ".input_scale", DType::f32, Shape{}});
  }

  size_t unit_of(std::string_view name) const {
    if (model::is_other_part(name)) return 0;
    const auto parsed = model::parse_name(name, source_.prefix());
    const bool in_layer = parsed && model::rule_of(parsed->member).scope != model::Scope::global;
    return in_layer ? static_cast<size_t>(parsed->layer) + 1 : 0;
  }

  void add(formats::TensorSpec spec) {
    layout_.quantized_bytes += static_cast<int64_t>(spec.bytes());
    layout_.tensors.push_back(std::move(spec));
  }

  // KV scales of the source stand for nothing in a file that declares its own KV cache.
  bool is_copied(std::string_view name) const {
    const auto parsed =
        model::is_other_part(name) ? std::nullopt : model::parse_name(name, source_.prefix());
    if (!parsed) return true;
    if (parsed->rest == ".k_scale" || parsed->rest == ".v_scale") {
      return plan_.kv() == KvScheme::none;
    }
    return plan_.of(parsed->member, parsed->layer) == ModuleFormat::bf16;
  }

  const model::CheckpointSource& source_;
  const formats::Checkpoint& checkpoint_;
  const FormatPlan& plan_;
  ExportLayout& layout_;
};

}  // namespace

ExportLayout ExportLayout::make(const model::CheckpointSource& source,
                                const formats::Checkpoint& checkpoint, const FormatPlan& plan) {
  ExportLayout layout;
  LayoutMaker maker(source, checkpoint, plan, layout);
  maker.find_copies();
  maker.add_units();
  return layout;
}

std::set<std::string, std::less<>> ExportLayout::written(int64_t units_done) const {
  std::set<std::string, std::less<>> out;
  const size_t end = units_done == 0 ? 0 : units.at(static_cast<size_t>(units_done) - 1).end;
  for (size_t i = 0; i < end; ++i) out.insert(tensors[i].name);
  return out;
}

DType exported_dtype(const formats::TensorInfo& tensor) {
  const bool draft = tensor.name.starts_with("mtp.") || tensor.name.starts_with("model.mtp.");
  return tensor.dtype == DType::f32 && !draft ? DType::bf16 : tensor.dtype;
}

}  // namespace nibble::quantize
