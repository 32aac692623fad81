# SPDX-License-Identifier: Apache-2.0
# assetd: `make help` says what there is.
#
# VARIANT=release (default) builds to build/, the others to build/VARIANT/:
#   debug  -O0 -g3;  asan  AddressSanitizer and UBSan;  tsan  ThreadSanitizer (unit tests only)

ifeq ($(MAKELEVEL),0)
MAKEFLAGS += --jobs=$(shell nproc) --no-print-directory
endif

VARIANT ?= release
ifeq ($(origin CC),default)
CC := gcc
endif
PYTHON ?= /usr/bin/python3
# Where the configuration and the credentials are; the other folders are in deploy/install.mk.
sysconfdir = /etc
RUN ?= run
PULL_PORT ?= 11001
PUSH_PORT ?= 11002

O := $(if $(filter release,$(VARIANT)),build,build/$(VARIANT))
GEN := $(O)/gen

WERROR := -Werror
WARNINGS := -Wall -Wextra -Wconversion -Wshadow -Wstrict-prototypes -Wmissing-prototypes \
            -Wpointer-arith -Wwrite-strings -Wvla $(WERROR)
CFLAGS_release := -O2 -g -fno-omit-frame-pointer -fstack-protector-strong \
                  $(if $(findstring _FORTIFY_SOURCE,$(CPPFLAGS)),,-D_FORTIFY_SOURCE=2)
CFLAGS_debug := -O0 -g3
CFLAGS_asan := -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
CFLAGS_tsan := -O1 -g -fno-omit-frame-pointer -fsanitize=thread
LDFLAGS_release := -Wl,-z,relro,-z,now -pie
LDFLAGS_asan := -fsanitize=address,undefined
LDFLAGS_tsan := -fsanitize=thread

# `make V=1` shows every command.
Q := $(if $(V),,@)
say = $(if $(V),:,printf '  %-7s %s\n')

VERSION := 0.1.0
# What the code needs. CPPFLAGS, CFLAGS and LDFLAGS are for who builds: they come last.
OUR_CPPFLAGS := -D_GNU_SOURCE -DASSETD_VERSION='"$(VERSION)"' -DASSETD_SYSCONFDIR='"$(sysconfdir)"' \
                -Ibackend -isystem $(GEN)
OUR_CFLAGS := -std=c11 -fPIE -pthread $(CFLAGS_$(VARIANT))
OUR_LDFLAGS := -pthread $(LDFLAGS_$(VARIANT))
COMPILE = $(CC) $(OUR_CPPFLAGS) $(CPPFLAGS) $(OUR_CFLAGS)
LINK = $(CC) $(OUR_LDFLAGS) $(CFLAGS) $(LDFLAGS)
LDLIBS := -lgrpc -lgpr -lprotobuf-c -llmdb -lyaml -ljansson -lssl -lcrypto -lsystemd

# What is generated from protos/: messages for protobuf-c, and all descriptors for reflection.
PROTOS := $(sort $(shell find protos -name '*.proto'))
WELL_KNOWN := any duration timestamp wrappers
GEN_C := $(PROTOS:protos/%.proto=$(GEN)/%.pb-c.c) \
         $(WELL_KNOWN:%=$(GEN)/google/protobuf/%.pb-c.c) $(GEN)/descriptors.c
GEN_OBJECTS := $(GEN_C:.c=.o)
GEN_STAMP := $(GEN)/.stamp

# Everything but the two programs' main files goes into one archive that the tests link as well.
MAINS := backend/assetd.c backend/assetctl.c
SOURCES := $(filter-out $(MAINS),$(sort $(wildcard backend/*/*.c)))
OBJECTS := $(SOURCES:%.c=$(O)/obj/%.o)
PROGRAMS := $(patsubst backend/%.c,$(O)/%,$(wildcard $(MAINS)))
OLD_NAME := $(O)/bst-artifact-server
UNIT_TESTS := $(patsubst tests/unit/%.c,$(O)/unit/%,$(sort $(wildcard tests/unit/test_*.c)))
# Those that run the gRPC core, in which ThreadSanitizer sees no locks: it was not built for it.
CORE_TESTS := $(patsubst %,$(O)/unit/test_%,cas_calls cas_connections cas_credentials cas_served tls)
UNIT_TESTS := $(filter-out $(if $(filter tsan,$(VARIANT)),$(CORE_TESTS)),$(UNIT_TESTS))
UNIT_SHARED := $(patsubst %.c,$(O)/obj/%.o,$(filter-out tests/unit/test_%.c,$(sort $(wildcard tests/unit/*.c))))
BENCH := $(addprefix $(O)/bench/,empty fill load)
SLOW_SYNC := $(O)/bench/slow_sync.so

VENV := build/venv
C_FILES := $(shell find backend tests -name '*.[ch]')
SHELL_FILES := .ci/run $(wildcard deploy/*.sh deploy/demo/*.sh deploy/debian/*.p*)

.PHONY: all help deps up test bench bench-programs unit check format-check layers shellcheck compilers sanitizers format clean \
        FORCE
.DELETE_ON_ERROR:
.SECONDARY:

all: $(PROGRAMS) $(OLD_NAME) ## build build/assetd

help: ## this text
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@sed -n 's/^# *\(VARIANT=\|  debug\)/  \1/p' Makefile

deps: ## install what is missing, from Debian's packages (apt-get; root or sudo)
	@deploy/demo/deps.sh $(DEPS_FOR)

up: deps ## run assetd and nginx in the foreground, below RUN=./run, ports PULL_PORT and PUSH_PORT
	@$(MAKE) all
	@RUN='$(RUN)' PULL_PORT='$(PULL_PORT)' PUSH_PORT='$(PUSH_PORT)' ASSETD='$(O)/assetd' exec deploy/demo/up.sh

test: ## all tests: unit, nginx, end to end; real nginx, bst and casd; ends with 'N passed, ...'
	@$(MAKE) deps DEPS_FOR='test bench deb'
	@$(MAKE) all unit bench-programs $(VENV)/.stamp
	@BUILD=$(O) $(PYTHON) tests/run

bench: ## servers side by side: CPU, memory, speed; tests/bench/README.md; make bench-NAME for one part
	@$(MAKE) deps DEPS_FOR='test bench'
	@$(MAKE) all bench-programs $(VENV)/.stamp
	@BUILD=$(O) $(VENV)/bin/python tests/bench/run $(PART)

bench-%:
	@$(MAKE) bench PART=$*

check: ## format, layers, scripts, warnings of gcc and clang, unit tests under sanitizers
	@$(MAKE) deps DEPS_FOR=check
	@set -e; for step in format-check layers shellcheck compilers sanitizers; do $(MAKE) $$step; done

unit: $(UNIT_TESTS)

bench-programs: $(BENCH) $(SLOW_SYNC)

$(VENV)/.stamp: tests/requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

format: ## reformat the C files
	clang-format-14 -i $(C_FILES)

format-check:
	clang-format-14 --dry-run -Werror $(C_FILES)

layers:
	$(PYTHON) tests/lib/layers.py backend

shellcheck:
	shellcheck $(SHELL_FILES)

compilers:
	$(MAKE) CC=gcc all unit bench-programs
	$(MAKE) CC=clang-14 O=build/clang all unit bench-programs

# ThreadSanitizer runs over what is ours alone: the core is not built for it.
sanitizers:
	$(MAKE) VARIANT=asan unit
	BUILD=build/asan $(PYTHON) tests/run unit
	$(MAKE) VARIANT=tsan unit
	BUILD=build/tsan $(PYTHON) tests/run unit

$(GEN_STAMP): $(PROTOS)
	@mkdir -p $(GEN)
	@$(say) PROTOC protos
	$(Q)protoc -I protos --c_out=$(GEN) $(PROTOS) $(WELL_KNOWN:%=google/protobuf/%.proto)
	$(Q)protoc -I protos --include_imports --descriptor_set_out=$(GEN)/descriptors.pb $(PROTOS)
	@{ echo '#include <stddef.h>'; echo 'extern const unsigned char descriptors[];'; \
	   echo 'extern const size_t descriptors_size;'; echo 'const unsigned char descriptors[] = {'; \
	   od -An -v -tu1 $(GEN)/descriptors.pb | sed 's/  */,/g; s/^,//; s/$$/,/'; \
	   echo '};'; echo 'const size_t descriptors_size = sizeof(descriptors);'; } > $(GEN)/descriptors.c
	@touch $@

$(GEN_C): $(GEN_STAMP) ;

$(GEN)/%.o: $(GEN)/%.c
	@$(say) CC $@
	$(Q)$(COMPILE) -w $(CFLAGS) -c -o $@ $<

$(O)/obj/%.o: %.c $(GEN_STAMP)
	@mkdir -p $(@D)
	@$(say) CC $@
	$(Q)$(COMPILE) $(WARNINGS) $(CFLAGS) -MMD -MP -c -o $@ $<

# What names a folder of the installation is compiled again for another one.
$(O)/sysconfdir: FORCE
	@mkdir -p $(O)
	@echo '$(sysconfdir)' | cmp -s - $@ || echo '$(sysconfdir)' >$@

$(patsubst %.c,$(O)/obj/%.o,$(wildcard backend/control/*.c)): $(O)/sysconfdir

$(O)/libassetd.a: $(OBJECTS) $(GEN_OBJECTS)
	@rm -f $@
	@$(say) AR $@
	$(Q)$(AR) rcs $@ $^

$(PROGRAMS): $(O)/%: $(O)/obj/backend/%.o $(O)/libassetd.a
	@$(say) LD $@
	$(Q)$(LINK) -o $@ $^ $(LDLIBS)

# The server whose place assetd takes, for who calls it by that name.
$(OLD_NAME): $(O)/assetd
	@$(say) LN $@
	$(Q)ln -sfn assetd $@

# What the tests share comes first: its stand-ins take the place of parts of the program.
$(O)/libunit.a: $(UNIT_SHARED)
	@rm -f $@
	@$(say) AR $@
	$(Q)$(AR) rcs $@ $^

define link-unit
@mkdir -p $(@D)
@$(say) LD $@
$(Q)$(LINK) -o $@ $^ $(LDLIBS) -lcmocka
endef

$(O)/unit/%: $(O)/obj/tests/unit/%.o $(O)/libunit.a $(O)/libassetd.a
	$(link-unit)

# For the others there is a stand-in of what these test.
$(O)/unit/test_remote%: $(O)/obj/tests/unit/test_remote%.o $(O)/libassetd.a
	$(link-unit)

$(O)/bench/empty: $(O)/obj/tests/bench/empty.o
$(O)/bench/fill: $(patsubst %,$(O)/obj/tests/bench/%.o,fill blobs fail)
$(O)/bench/load: $(patsubst %,$(O)/obj/tests/bench/%.o,load load_options client link bodies blobs fail)
$(O)/bench/load: LDLIBS += -lnghttp2

$(BENCH): $(O)/libassetd.a
	@mkdir -p $(@D)
	@$(say) LD $@
	$(Q)$(LINK) -o $@ $(filter %.o,$^) $(O)/libassetd.a $(LDLIBS)

# For programs of any kind: without sanitizers, whatever the variant.
$(SLOW_SYNC): tests/bench/slow_sync.c
	@mkdir -p $(@D)
	@$(say) LD $@
	$(Q)$(CC) $(OUR_CPPFLAGS) $(CPPFLAGS) -std=c11 -O2 -g -fPIC $(WARNINGS) -shared -o $@ $<

clean: ## remove what was built (not the tests' Python)
	rm -rf build/assetd build/assetctl build/bst-artifact-server build/obj build/gen build/sysconfdir build/unit build/libassetd.a build/libunit.a \
	    build/bench build/deb build/debug build/asan build/tsan build/clang

include deploy/install.mk
-include $(shell find $(O)/obj -name '*.d' 2>/dev/null)
