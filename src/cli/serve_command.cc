// nibble serve: loads a model and answers HTTP until Ctrl-C or SIGTERM.
#include "cli/commands.h"
#include "cli/exit_codes.h"
#include "cli/interrupt.h"
#include "cli/text_model.h"
#include "server/server.h"

#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <optional>

namespace nibble::cli {
namespace {

constexpr int32_t kDefaultSequences = 8;

std::string directory_name(const std::string& model) {
  const auto path = std::filesystem::absolute(model).lexically_normal();
  return path.has_filename() ? path.filename().string() : path.parent_path().filename().string();
}

Result<void> serve(const ServeOptions& options) {
  server::ServerOptions server_options;
  server_options.host = options.host;
  server_options.port = static_cast<uint16_t>(options.port);
  server_options.version = NIBBLE_VERSION;
  server_options.served_model_names = options.served_model_names;
  if (server_options.served_model_names.empty()) {
    server_options.served_model_names.push_back(directory_name(options.model.model));
  }
  // The port opens first: whoever waits for the model gets an answer. The server is declared last,
  // so that it ends before what it uses.
  std::unique_ptr<TextModel> model;
  std::optional<server::ChatModel> chat_model;
  NIBBLE_ASSIGN_OR_RETURN(const auto server, server::Server::open(server_options));
  SessionNeeds needs;
  needs.max_num_seqs = kDefaultSequences;
  NIBBLE_ASSIGN_OR_RETURN(model, TextModel::open(options.model, needs));
  chat_model.emplace(model->chat_model());
  if (!options.default_chat_template_kwargs.empty()) {
    chat_model->default_template_kwargs = options.default_chat_template_kwargs;
  }
  NIBBLE_RETURN_IF_ERROR(server->serve(model->engine(), *chat_model));

  const runtime::EngineLimits& limits = model->session().limits();
  fmt::print("nibble serves {} on http://{}:{} ({}; context {}, {} sequences at once)\n",
             server_options.served_model_names.front(), options.host, server->port(),
             model->session().device().description(), limits.max_model_len, limits.max_num_seqs);
  std::fflush(stdout);
  wait_for_interrupt();
  fmt::print("stopping: running requests get {:.0f} s; a second signal ends at once\n",
             options.shutdown_timeout_seconds);
  std::fflush(stdout);
  server->stop(options.shutdown_timeout_seconds);
  return {};
}

}  // namespace

int run_serve(const ServeOptions& options) {
  const Result<void> done = serve(options);
  return done.ok() ? kExitOk : report_error(done.error());
}

}  // namespace nibble::cli
