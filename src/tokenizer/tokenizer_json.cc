// A SAX handler with a small document builder inside it.
#include "tokenizer/tokenizer_json.h"

#include <fmt/format.h>

#include <utility>

namespace nibble::tokenizer {
namespace {

class Reader {
 public:
  Reader(TokenizerJson& out, const std::string& what) : out_(out), what_(what) {}

  const std::string& problem() const { return problem_; }

  bool null() { return value(nullptr); }
  bool boolean(bool v) { return value(v); }
  bool number_integer(Json::number_integer_t v) { return integer(v, Json(v)); }
  bool number_unsigned(Json::number_unsigned_t v) {
    return v > INT64_MAX ? value(v) : integer(static_cast<int64_t>(v), Json(v));
  }
  bool number_float(Json::number_float_t v, const std::string&) { return value(v); }
  bool binary(Json::binary_t&) { return fail("binary value"); }

  bool string(std::string& v) {
    if (place_ == Place::merges) return joined_merge(v);
    if (place_ == Place::merge_pair) {
      pair_.push_back(std::move(v));
      return pair_.size() <= 2 || bad_merge();
    }
    return value(std::move(v));
  }

  bool start_object(size_t) {
    if (is_at_member("vocab")) {
      if (std::exchange(out_.has_vocab, true)) return fail("model.vocab appears twice");
      place_ = Place::vocab;
      return true;
    }
    return open(Json::object());
  }

  bool key(std::string& v) {
    if (place_ == Place::vocab) {
      token_ = std::move(v);
      return true;
    }
    if (stack_.back()->contains(v)) return fail(fmt::format("key \"{}\" appears twice", v));
    keys_.back() = std::move(v);
    return true;
  }

  bool end_object() {
    if (place_ == Place::vocab) {
      place_ = Place::document;
      return true;
    }
    return close();
  }

  bool start_array(size_t) {
    if (place_ == Place::merges) {
      place_ = Place::merge_pair;
      pair_.clear();
      return true;
    }
    if (is_at_member("merges")) {
      if (std::exchange(out_.has_merges, true)) return fail("model.merges appears twice");
      place_ = Place::merges;
      return true;
    }
    return open(Json::array());
  }

  bool end_array() {
    if (place_ == Place::merge_pair) {
      place_ = Place::merges;
      if (pair_.size() != 2) return bad_merge();
      out_.merges.push_back({std::move(pair_[0]), std::move(pair_[1])});
      return true;
    }
    if (place_ == Place::merges) {
      place_ = Place::document;
      return true;
    }
    return close();
  }

  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception& e) {
    return fail(fmt::format("not valid JSON: {}", e.what()));
  }

 private:
  enum class Place { document, vocab, merges, merge_pair };

  bool fail(const std::string& problem) {
    if (problem_.empty()) problem_ = what_ + ": " + problem;
    return false;
  }
  bool bad_merge() {
    return fail(fmt::format("model.merges[{}]: expected \"left right\" or [\"left\", \"right\"]",
                            out_.merges.size()));
  }

  // True when the value that begins now is model.`name`.
  bool is_at_member(const char* name) const {
    return place_ == Place::document && stack_.size() == 2 && stack_[0]->is_object() &&
           stack_[1]->is_object() && keys_[0] == "model" && keys_[1] == name;
  }

  bool integer(int64_t v, Json json) {
    if (place_ != Place::vocab) return value(std::move(json));
    out_.vocab.push_back({std::move(token_), v});
    return true;
  }

  bool joined_merge(const std::string& v) {
    const size_t space = v.find(' ');
    if (space == std::string::npos || v.find(' ', space + 1) != std::string::npos)
      return bad_merge();
    out_.merges.push_back({v.substr(0, space), v.substr(space + 1)});
    return true;
  }

  Json* place_value(Json json) {
    if (stack_.empty()) {
      out_.rest = std::move(json);
      return &out_.rest;
    }
    Json& parent = *stack_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(json));
      return &parent.back();
    }
    return &(parent[keys_.back()] = std::move(json));
  }

  bool value(Json json) {
    if (place_ == Place::vocab) {
      return fail(fmt::format("model.vocab: \"{}\": found {}, expected an integer", token_,
                              dump_json(json).substr(0, 80)));
    }
    if (place_ != Place::document) return bad_merge();
    place_value(std::move(json));
    return true;
  }

  bool open(Json container) {
    if (place_ != Place::document) return value(std::move(container));
    if (stack_.size() >= static_cast<size_t>(kMaxJsonDepth)) {
      return fail(fmt::format("nested deeper than {} levels", kMaxJsonDepth));
    }
    // An array grows only while none of its elements is open, so the pointers stay good.
    stack_.push_back(place_value(std::move(container)));
    keys_.emplace_back();
    return true;
  }

  bool close() {
    stack_.pop_back();
    keys_.pop_back();
    return true;
  }

  TokenizerJson& out_;
  const std::string& what_;
  std::string problem_;
  Place place_ = Place::document;
  std::vector<Json*> stack_;
  std::vector<std::string> keys_;  // current key of every open object
  std::string token_;
  std::vector<std::string> pair_;
};

}  // namespace

Result<TokenizerJson> read_tokenizer_json(std::string_view text, const std::string& what) {
  TokenizerJson out;
  Reader reader(out, what);
  try {
    const bool complete = Json::sax_parse(text.begin(), text.end(), &reader);
    if (!complete || !reader.problem().empty()) {
      return Error{ErrorCode::corrupt, reader.problem()};
    }
  } catch (const Json::exception& e) {
    return Error{ErrorCode::corrupt, fmt::format("{}: not valid JSON: {}", what, e.what())};
  }
  return out;
}

}  // namespace nibble::tokenizer
