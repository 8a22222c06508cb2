// nibble: makes, serves and measures NVFP4 models. Everything starts in cli/.
#include "cli/commands.h"

int main(int argc, char** argv) {
  return nibble::cli::run(argc, argv);
}
