// The two forms of a chat answer in the making: whole JSON, and a stream of server-sent events.
//
// Both take pieces from a GenerationRun when the connection asks. Order of a stream's events: spec
// serving.md 5.8. An engine error before the first piece becomes a 500 with its status; after that
// it is an error event.
#pragma once

#include "server/chat_response.h"
#include "server/generation_run.h"
#include "server/http_message.h"

#include <memory>

namespace nibble::server {

std::unique_ptr<PendingReply> make_plain_chat_reply(std::unique_ptr<GenerationRun> run,
                                                    ChatAnswer answer, const ChatText& text);
std::unique_ptr<PendingReply> make_streamed_chat_reply(std::unique_ptr<GenerationRun> run,
                                                       ChatAnswer answer, const ChatText& text);

}  // namespace nibble::server
