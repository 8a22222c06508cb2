#include "formats/safetensors_header.h"

#include "base/json.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <array>
#include <cstdint>
#include <optional>
#include <utility>

namespace nibble::formats {
namespace {

constexpr DType kFileDtypes[] = {DType::f32,     DType::bf16, DType::f8_e4m3, DType::u8,
                                 DType::i32,     DType::i64,  DType::f16,     DType::f64,
                                 DType::f8_e5m2, DType::i8,   DType::i16,     DType::u16,
                                 DType::u32,     DType::u64,  DType::boolean};

std::optional<DType> find_dtype(std::string_view name) {
  for (const DType dtype : kFileDtypes) {
    if (name == dtype_name(dtype)) return dtype;
  }
  return std::nullopt;
}

// What the header says of one tensor, before it is believed.
struct RawTensor {
  std::string name;
  std::string dtype;
  std::array<uint64_t, Shape::kMaxRank> extents{};
  size_t rank = 0;
  std::array<uint64_t, 2> offsets{};
  size_t num_offsets = 0;
  bool has_dtype = false;
  bool has_shape = false;
  bool has_offsets = false;
  std::string fault;  // the first thing wrong while reading its fields
};

// Receives parser events. Returning false stops the parser, with failure() saying why.
class HeaderHandler : public nlohmann::json_sax<Json> {
 public:
  HeaderHandler(size_t data_bytes, Problems& problems)
      : data_bytes_(data_bytes), problems_(problems) {}

  SafetensorsHeader take() { return std::move(header_); }
  const std::string& failure() const { return failure_; }

  bool null() override { return misplaced("null"); }
  bool boolean(bool) override { return misplaced("true or false"); }
  bool binary(binary_t&) override { return misplaced("binary data"); }

  bool number_integer(number_integer_t value) override { return bad_number(std::to_string(value)); }
  bool number_float(number_float_t, const string_t& text) override { return bad_number(text); }
  bool number_unsigned(number_unsigned_t value) override {
    if (!in_array_) return misplaced("a number");
    if (field_ == Field::shape) {
      if (tensor_.rank < tensor_.extents.size()) tensor_.extents[tensor_.rank] = value;
      ++tensor_.rank;
    } else {
      if (tensor_.num_offsets < 2) tensor_.offsets[tensor_.num_offsets] = value;
      ++tensor_.num_offsets;
    }
    return true;
  }

  bool string(string_t& value) override {
    if (place_ == Place::metadata) {
      if (header_.metadata.emplace(key_, value).second) return true;
      return fail(fmt::format("__metadata__: key {} appears twice", quoted_name(key_)));
    }
    if (place_ != Place::tensor || field_ != Field::dtype) return misplaced("a string");
    tensor_.dtype = value;
    return true;
  }

  bool start_object(size_t) override {
    if (place_ == Place::outside) {
      place_ = Place::root;
    } else if (place_ == Place::root && key_ == "__metadata__") {
      if (std::exchange(has_metadata_, true)) return fail("__metadata__ appears twice");
      place_ = Place::metadata;
    } else if (place_ == Place::root) {
      place_ = Place::tensor;
      field_ = Field::none;
      tensor_ = RawTensor{};
      tensor_.name = key_;
    } else {
      return misplaced("an object");
    }
    return true;
  }

  bool end_object() override {
    if (place_ == Place::tensor) finish_tensor();
    place_ = place_ == Place::root ? Place::outside : Place::root;
    return true;
  }

  bool key(string_t& value) override {
    if (place_ != Place::tensor) {
      key_ = value;
      return true;
    }
    if (value == "dtype") return start_field(Field::dtype, tensor_.has_dtype, value);
    if (value == "shape") return start_field(Field::shape, tensor_.has_shape, value);
    if (value == "data_offsets") return start_field(Field::offsets, tensor_.has_offsets, value);
    return fail(
        fmt::format("tensor {}: unknown field {}", quoted_name(tensor_.name), quoted_name(value)));
  }

  bool start_array(size_t) override {
    const bool wanted = field_ == Field::shape || field_ == Field::offsets;
    if (place_ != Place::tensor || !wanted || in_array_) return misplaced("a list");
    in_array_ = true;
    return true;
  }
  bool end_array() override {
    in_array_ = false;
    field_ = Field::none;
    return true;
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception&) override {
    return fail(fmt::format("not valid JSON at byte {} of the header", position));
  }

 private:
  enum class Place { outside, root, metadata, tensor };
  enum class Field { none, dtype, shape, offsets };

  bool fail(std::string text) {
    failure_ = std::move(text);
    return false;
  }

  bool misplaced(const char* found) {
    if (place_ == Place::outside) return fail(fmt::format("found {}, expected an object", found));
    const std::string& owner = place_ == Place::tensor ? tensor_.name : key_;
    return fail(fmt::format("{}: found {} where none belongs", quoted_name(owner), found));
  }

  bool bad_number(const std::string& text) {
    if (!in_array_) return misplaced("a number");
    note(fmt::format("{} {} is not an integer from 0 to 2^64-1",
                     field_ == Field::shape ? "extent" : "data offset", text.substr(0, 40)));
    return true;
  }

  bool start_field(Field field, bool& seen, const std::string& name) {
    if (std::exchange(seen, true)) {
      return fail(
          fmt::format("tensor {}: field {} appears twice", quoted_name(tensor_.name), name));
    }
    field_ = field;
    return true;
  }

  void note(std::string text) {
    if (tensor_.fault.empty()) tensor_.fault = std::move(text);
  }

  void finish_tensor() {
    TensorInfo info;
    check_fields();
    if (tensor_.fault.empty()) check_sizes(info);
    if (tensor_.fault.empty()) {
      info.name = std::move(tensor_.name);
      header_.tensors.push_back(std::move(info));
    } else {
      problems_.add(fmt::format("tensor {}: {}", quoted_name(tensor_.name), tensor_.fault));
    }
  }

  void check_fields() {
    if (!tensor_.has_dtype) note("dtype missing");
    if (!tensor_.has_shape) note("shape missing");
    if (!tensor_.has_offsets) note("data_offsets missing");
    if (tensor_.has_offsets && tensor_.num_offsets != 2) {
      note(fmt::format("data_offsets has {} numbers, expected 2", tensor_.num_offsets));
    }
    if (tensor_.rank > tensor_.extents.size()) {
      note(fmt::format("{} extents, at most {} are supported", tensor_.rank,
                       tensor_.extents.size()));
    }
  }

  void check_sizes(TensorInfo& info) {
    const auto dtype = find_dtype(tensor_.dtype);
    if (!dtype) return note(fmt::format("dtype {} is unknown", quoted_name(tensor_.dtype)));
    info.dtype = *dtype;
    uint64_t size = dtype_bytes(*dtype);
    bool overflow = false;
    for (size_t axis = 0; axis < tensor_.rank; ++axis) {
      overflow = overflow || tensor_.extents[axis] > static_cast<uint64_t>(INT64_MAX) ||
                 __builtin_mul_overflow(size, tensor_.extents[axis], &size);
      if (!overflow) info.shape.append(static_cast<int64_t>(tensor_.extents[axis]));
    }
    if (overflow || size > static_cast<uint64_t>(INT64_MAX)) {
      return note("the product of its extents overflows");
    }
    const auto [begin, end] = tensor_.offsets;
    if (begin > end || end > data_bytes_) {
      return note(fmt::format("data_offsets [{},{}] lie outside the {} bytes of data", begin, end,
                              data_bytes_));
    }
    if (end - begin != size) {
      return note(fmt::format("data_offsets [{},{}] hold {} bytes, expected {} ({} {})", begin, end,
                              end - begin, size, tensor_.dtype, to_string(info.shape)));
    }
    info.offset = begin;
    info.bytes = size;
  }

  size_t data_bytes_;
  Problems& problems_;
  SafetensorsHeader header_;
  std::string failure_;
  Place place_ = Place::outside;
  Field field_ = Field::none;
  bool in_array_ = false;
  bool has_metadata_ = false;
  std::string key_;
  RawTensor tensor_;
};

}  // namespace

std::string quoted_name(std::string_view name) {
  constexpr size_t kShown = 200;
  std::string text = dump_json(Json(std::string(name.substr(0, kShown))));
  return name.size() > kShown ? text + "..." : text;
}

Result<SafetensorsHeader> parse_header_json(std::string_view json, size_t data_bytes,
                                            Problems& problems) {
  HeaderHandler handler(data_bytes, problems);
  bool finished = false;
  try {
    finished = Json::sax_parse(json.begin(), json.end(), &handler);
  } catch (const nlohmann::json::exception& e) {
    return Error{ErrorCode::corrupt, fmt::format("header: not valid JSON: {}", e.what())};
  }
  if (!finished) return Error{ErrorCode::corrupt, "header: " + handler.failure()};
  return handler.take();
}

}  // namespace nibble::formats
