// NFC as the reference does it: nothing for text below U+0300, utf8proc for the rest.
//
// utf8proc knows a newer Unicode version than the reference: code points of nfc_inert_ranges() are
// therefore kept out of its hands, and the text is normalized piecewise around them.
#pragma once

#include <string>
#include <string_view>

namespace nibble::tokenizer {

/// True when NFC surely leaves the text as it is (every code point below U+0300).
bool is_plainly_nfc(std::string_view text);

/// NFC of valid UTF-8. Safe from any thread.
std::string normalize_nfc(std::string_view text);

}  // namespace nibble::tokenizer
