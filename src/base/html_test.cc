// Tests for escape_html: the spelling of markupsafe.
#include "base/html.h"

#include <gtest/gtest.h>

namespace nibble {
namespace {

TEST(EscapeHtml, EscapesWhatMarkupReads) {
  EXPECT_EQ(escape_html("<a href=\"x\">Tom & 'Jerry'</a>"),
            "&lt;a href=&#34;x&#34;&gt;Tom &amp; &#39;Jerry&#39;&lt;/a&gt;");
  EXPECT_EQ(escape_html("caf\xC3\xA9 &amp;"), "caf\xC3\xA9 &amp;amp;");
}

}  // namespace
}  // namespace nibble
