# A thin front on CMake presets: every target is one or two commands you could type yourself.
#
#   make               install missing packages, build build/release/nibble
#   make demo          quantize the demo model, serve it, ask it a question
#   make test          build everything, run every test
#   make test-clients  the official openai Python client against our server (needs PyPI)
#   make bench         micro-benchmarks, then the engine on the demo model
#   make clean         remove build/
#
# Everything is made below build/. The compiler cache is too, unless CCACHE_DIR says otherwise.
export CCACHE_DIR ?= $(CURDIR)/build/ccache

.PHONY: all deps configure demo test test-clients bench clean

all: configure
	cmake --build --preset release --target nibble golden_runner

deps:
	scripts/deps.sh

configure: deps
	cmake --preset release

demo:
	scripts/demo.sh

test: configure
	cmake --build --preset release
	tools/run_tests build/release

test-clients: all
	scripts/deps.sh --clients
	scripts/test_clients.sh

bench: configure
	cmake --build --preset release
	scripts/bench.sh

clean:
	rm -rf build
