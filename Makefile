# wayside. `make help` lists what this can do.
#
# Built: bin/wayside, and build/libwayside.a, which holds all of core/ but main.c. A sanitizer's build
# (`make asan`, `make tsan`) has its own objects below build/ and its own binary, bin/wayside-asan.
# OUT=DIR puts build/ and bin/ below DIR. WERROR=1 makes warnings errors. CC may be gcc or clang.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-print-directory

# All processors, unless `make -jN` said otherwise.
ifeq ($(MAKELEVEL)$(filter -j%,$(MAKEFLAGS)),0)
MAKEFLAGS += -j$(shell nproc)
endif

# What is missing and can't be installed (no root, no sudo) is told before anything runs, and make ends with 1: a
# failing recipe would end it with 2, so it is asked, as by -q, for something that is not up to date.
SET_OF_run := run
SET_OF_demo := test
SET_OF_test := test
SET_OF_soak := test
SET_OF_bench := bench
SET_OF_bench-faults := test
SET_OF_check := lint
SET_OF_lint := lint
SET_OF_fuzz := lint
WANTED := $(if $(filter 0,$(MAKELEVEL)),$(foreach goal,$(MAKECMDGOALS),$(SET_OF_$(goal))))
ifneq ($(foreach set,$(sort $(WANTED)),$(shell tests/support/install.sh --able $(set) >&2 || echo unable)),)
MAKEFLAGS += -q
endif

PREFIX ?= /usr/local
MANDIR ?= $(PREFIX)/share/man
LIBDIR ?= $(PREFIX)/lib
# Where luajit looks for modules.
LUA_DIR ?= $(PREFIX)/share/lua/5.1
LUA_CDIR ?= $(PREFIX)/lib/lua/5.1
OUT ?= .
VARIANT ?=

SUPPORT := tests/support
BUILD_ROOT := $(patsubst ./%,%,$(OUT)/build)
BUILD := $(BUILD_ROOT)$(VARIANT:%=/%)
BIN := $(patsubst ./%,%,$(OUT)/bin/wayside$(VARIANT:%=-%))
LIB := $(BUILD)/libwayside.a
of_variant := $(if $(VARIANT), [$(VARIANT)])

# --- compiler and libraries -------------------------------------------------------------------------
PACKAGES := luajit hiredis libcares libmicrohttpd jansson openssl libsystemd
WARNINGS := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes
SANITIZE_asan := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
SANITIZE_tsan := -fsanitize=thread -fno-omit-frame-pointer
OPTIMIZE := $(if $(SANITIZE_$(VARIANT)),-O1 -g,-O2 -g)
CFLAGS ?= $(OPTIMIZE)
STANDARD := -std=c11 -D_GNU_SOURCE -pthread
# Not `:=` from the first line on: a fresh machine has no pkg-config until `make run` has installed it.
PKG_CFLAGS := $(shell pkg-config --cflags $(PACKAGES) 2>/dev/null)
PKG_LIBS := $(shell pkg-config --libs $(PACKAGES) 2>/dev/null)
ALL_CFLAGS = $(STANDARD) $(CFLAGS) $(WARNINGS) $(WERROR:1=-Werror) $(SANITIZE_$(VARIANT)) \
    -iquote core $(PKG_CFLAGS) $(CPPFLAGS)
ALL_LDFLAGS = -pthread -Wl,--as-needed $(SANITIZE_$(VARIANT)) $(LDFLAGS)
LIBS = $(PKG_LIBS) -lev -lm -ldl

# --- what there is ----------------------------------------------------------------------------------
SOURCES := $(sort $(wildcard core/*.c))
HEADERS := $(sort $(wildcard core/*.h))
EMBEDDED := $(sort $(wildcard core/runtime/*.lua)) $(wildcard policies/default.lua)
GENERATED := $(BUILD_ROOT)/runtime_files.c
LIB_OBJECTS := $(patsubst core/%.c,$(BUILD)/core/%.o,$(filter-out core/main.c,$(SOURCES))) $(BUILD)/core/runtime_files.o
UNIT_SOURCES := $(sort $(wildcard tests/core/*_test.c))
UNITS := $(UNIT_SOURCES:tests/core/%.c=$(BUILD)/tests/%)
FUZZ_SOURCES := $(sort $(wildcard tests/fuzz/*.c))
FUZZERS := $(FUZZ_SOURCES:tests/fuzz/%.c=$(BUILD_ROOT)/fuzz/%)

.PHONY: all build lib examples asan tsan units clean help FORCE run stop demo test soak bench bench-route bench-faults bench-gateway check lint format fuzz install \
    tools suites unit-suites smoke-suites lint-all lint-layers lint-format lint-tidy lint-cppcheck lint-lua lint-gcc \
    lint-clang run-fuzzers deps-build deps-run deps-test deps-bench deps-lint
all:
	@$(SUPPORT)/install.sh --check build
	@$(MAKE) build

help:
	@echo 'make            builds bin/wayside; says what is missing for it'
	@echo 'make run        installs what is missing, builds, serves a throw-away cluster on 127.0.0.1:6380'
	@echo '                CLUSTER=host:port[,...] PORT= LISTEN= HTTP= POLICY= ARGS= (see examples/serve-local)'
	@echo '                DETACH=1 returns once it serves'
	@echo 'make stop       ends what make run started'
	@echo 'make demo       load, a killed master, a frozen replica, and what became of them'
	@echo 'make test       unit tests, policy and runtime specs, end to end (SEED=n repeats a run)'
	@echo 'make check      make test, sanitizers, lint, a few seconds of fuzzing'
	@echo 'make soak       the end-to-end specs with their full counts'
	@echo 'make lint       layers, format, compilers, clang-tidy, cppcheck, luacheck; make format mends the format'
	@echo 'make bench      against direct access and nutcracker'
	@echo 'make bench-route  what a route in Lua costs, per request'
	@echo 'make bench-faults  what clients see of a killed, frozen or refusing node, policy by policy'
	@echo 'make bench-gateway what a request in nginx costs, in-process and beside a daemon, and with a frozen node'
	@echo 'make asan tsan  bin/wayside-asan, bin/wayside-tsan and their unit tests'
	@echo 'make install    PREFIX=$(PREFIX) DESTDIR='
	@echo 'make deps-run deps-test deps-bench deps-lint   only install what these need'

build: $(BIN)
asan tsan:
	@$(MAKE) VARIANT=$@ WERROR=1 build units

$(BIN): $(BUILD)/core/main.o $(LIB) $(BUILD)/flags
	@mkdir -p $(@D)
	@echo "link  $@"
	@$(CC) $(ALL_LDFLAGS) -o $@ $(BUILD)/core/main.o $(LIB) $(LIBS)

$(LIB): $(LIB_OBJECTS)
	@rm -f $@
	@ar rcs $@ $^

# --- libwayside, as it is installed -----------------------------------------------------------------
# What the public headers need and no more, position independent, everything hidden but core/wayside.map.
# The static one is linked into one object, in which all but those names is local.
ABI := 0
VERSION = $(shell sed -n 's/.*WAY_VERSION "\(.*\)".*/\1/p' core/daemon.h)
PUBLIC := $(patsubst %,core/%.c,$(filter-out runtime_files,$(shell command -v luajit >/dev/null && \
    { luajit $(SUPPORT)/layers closure core/wayside.c; luajit $(SUPPORT)/layers closure core/gateway.c; } | sort -u)))
PIC_OBJECTS := $(patsubst core/%.c,$(BUILD)/pic/%.o,$(PUBLIC)) $(BUILD)/pic/runtime_files.o
PUBLIC_PACKAGES := luajit hiredis libcares openssl
SHARED := $(BUILD)/lib/libwayside.so.$(ABI)
STATIC := $(BUILD)/lib/libwayside.a
PIC_CFLAGS = $(ALL_CFLAGS) -fPIC -fvisibility=hidden
lib: $(LIB) $(SHARED) $(STATIC) $(BUILD)/lib/wayside.pc

$(BUILD)/pic/runtime_files.o: $(GENERATED) $(BUILD)/flags
	@mkdir -p $(@D)
	@$(CC) $(PIC_CFLAGS) -MMD -MP -c -o $@ $<
$(BUILD)/pic/%.o: core/%.c $(BUILD)/flags
	@mkdir -p $(@D)
	@$(CC) $(PIC_CFLAGS) -MMD -MP -c -o $@ $<
$(SHARED): $(PIC_OBJECTS) core/wayside.map
	@mkdir -p $(@D)
	@echo "link  $@"
	@$(CC) -shared -Wl,-soname,$(@F) -Wl,--version-script=core/wayside.map -Wl,-z,defs $(ALL_LDFLAGS) \
	    -o $@ $(PIC_OBJECTS) $(LIBS)
	@ln -sf $(@F) $(@D)/libwayside.so
$(STATIC): $(PIC_OBJECTS) core/wayside.map
	@mkdir -p $(@D)
	@rm -f $@
	@ld -r -o $(@D)/wayside.o $(PIC_OBJECTS)
	@sed -n 's/^ *\(way_[a-z_]*\);$$/\1/p' core/wayside.map >$(@D)/symbols
	@objcopy --keep-global-symbols=$(@D)/symbols $(@D)/wayside.o
	@ar rcs $@ $(@D)/wayside.o
$(BUILD)/lib/wayside.pc: core/wayside.pc.in core/daemon.h $(BUILD)/prefix
	@mkdir -p $(@D)
	@sed -e 's,@PREFIX@,$(PREFIX),' -e 's,@LIBDIR@,$(LIBDIR),' -e 's,@VERSION@,$(VERSION),' \
	    -e 's,@REQUIRES@,$(PUBLIC_PACKAGES),' $< >$@

# The examples in C, as a user would build them but for where the library is.
EXAMPLES := $(BUILD)/examples/embed $(BUILD)/examples/embed_uv $(BUILD)/examples/embed_static
examples: $(EXAMPLES)
$(BUILD)/examples/%: examples/%.c core/wayside.h $(SHARED)
	@mkdir -p $(@D)
	@$(CC) $(STANDARD) $(CFLAGS) $(WARNINGS) $(SANITIZE_$(VARIANT)) -Icore -o $@ $< -L$(BUILD)/lib \
	    -Wl,-rpath,$(abspath $(BUILD)/lib) -lwayside -lhiredis $(if $(findstring _uv,$@),-luv,-lev)
$(BUILD)/examples/embed_static: examples/embed.c core/wayside.h $(STATIC)
	@mkdir -p $(@D)
	@$(CC) $(STANDARD) $(CFLAGS) $(WARNINGS) $(SANITIZE_$(VARIANT)) -Icore -o $@ $< $(STATIC) $(LIBS)

$(BUILD)/core/runtime_files.o: $(GENERATED) $(BUILD)/flags
	@mkdir -p $(@D)
	@$(CC) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/core/%.o: core/%.c $(BUILD)/flags
	@mkdir -p $(@D)
	@echo "cc    $<$(of_variant)"
	@$(CC) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/tests/%.o: tests/core/%.c $(BUILD)/flags
	@mkdir -p $(@D)
	@echo "cc    $<$(of_variant)"
	@$(CC) $(ALL_CFLAGS) -iquote tests/support -MMD -MP -c -o $@ $<

# The Lua half of the program travels inside it. The list is a prerequisite too: a file that went away
# must go away here.
$(GENERATED): $(EMBEDDED) $(SUPPORT)/embed.sh $(BUILD_ROOT)/embedded
	@$(SUPPORT)/embed.sh $(EMBEDDED) >$@

# Rewritten only when the words differ, so that another compiler or flag rebuilds and nothing else does.
remember = @mkdir -p $(@D); printf '%s\n' $(1) | cmp -s - $@ || printf '%s\n' $(1) >$@
$(BUILD)/flags: FORCE
	$(call remember,$(CC) '$(subst ','"'"',$(ALL_CFLAGS) $(ALL_LDFLAGS) $(LIBS))')
$(BUILD)/prefix: FORCE
	$(call remember,$(PREFIX) $(LIBDIR))
$(BUILD_ROOT)/embedded: FORCE
	$(call remember,$(EMBEDDED) none)

# --- unit tests -------------------------------------------------------------------------------------
# A test links its module and what that includes, directly or not, and nothing above it: the link proves
# the layering. tests/support/layers prints one word for each test: TEST=MODULE,MODULE,...
# Not for goals that build none of them: it takes a quarter of a second, twice in `make run`.
WITHOUT_UNITS := build run stop help clean deps-%
ifneq ($(and $(UNIT_SOURCES),$(filter-out $(WITHOUT_UNITS),$(or $(MAKECMDGOALS),all))),)
LINKS := $(shell command -v luajit >/dev/null && luajit $(SUPPORT)/layers links $(UNIT_SOURCES))
comma := ,
define unit_rule
$(BUILD)/tests/$(1): $(BUILD)/tests/$(1).o $(patsubst %,$(BUILD)/core/%.o,$(subst $(comma), ,$(2)))
	@$$(CC) $$(ALL_LDFLAGS) -o $$@ $$^ -lcmocka $$(LIBS)
endef
$(foreach link,$(LINKS),$(eval $(call unit_rule,$(firstword $(subst =, ,$(link))),$(word 2,$(subst =, ,$(link))))))
endif
units: $(UNITS)

# --- running -----------------------------------------------------------------------------------------
deps-build deps-run deps-test deps-bench deps-lint:
	@$(SUPPORT)/install.sh $(@:deps-%=%)

# A run in the foreground ends with make, however that ends.
run: deps-run
	@$(MAKE) build
	@WAYSIDE=$(BIN) exec $(if $(DETACH),,setpriv --pdeathsig TERM) examples/serve-local $(if $(DETACH),detach,run)
stop:
	@examples/serve-local stop
demo: deps-test
	@$(MAKE) build tools
	@WAYSIDE=$(BIN) exec luajit examples/demo.lua

# --- testing -----------------------------------------------------------------------------------------
BUSTED ?= luajit $(shell command -v busted)
RUN_FLAGS ?=
export BUSTED BUILD_ROOT
# What the specs start besides the daemon, and what the benches compare with.
TOOLS := $(patsubst tests/support/%.c,$(BUILD_ROOT)/support/%,$(wildcard tests/support/*.c)) \
    $(patsubst tests/support/preload/%.c,$(BUILD_ROOT)/support/%.so,$(wildcard tests/support/preload/*.c))
# The policy kit, laid out as it is installed. It is a module for luajit, whose own Lua it uses: so it is not linked with
# one.
KIT := $(BUILD_ROOT)/lua/wayside/test_host.so $(BUILD_ROOT)/lua/wayside/test.lua
TOOLS += $(KIT)
BENCH_TOOLS := $(patsubst tests/bench/%.c,$(BUILD_ROOT)/bench/%,$(wildcard tests/bench/*.c))
tools: $(TOOLS)
$(BUILD_ROOT)/support/%: tests/support/%.c
	@mkdir -p $(@D)
	@$(CC) $(STANDARD) $(OPTIMIZE) $(WARNINGS) -o $@ $< -lev -lm
$(BUILD_ROOT)/support/%.so: tests/support/preload/%.c
	@mkdir -p $(@D)
	@$(CC) $(STANDARD) $(OPTIMIZE) $(WARNINGS) -shared -fPIC -o $@ $< -ldl
KIT_SOURCES = $(patsubst %,core/%.c,$(filter-out runtime_files,$(shell command -v luajit >/dev/null && luajit \
    $(SUPPORT)/layers closure core/policy_host.c)))
$(BUILD_ROOT)/lua/wayside/test_host.so: $(SOURCES) $(HEADERS) $(GENERATED)
	@mkdir -p $(@D)
	@echo "cc    $@"
	@$(CC) $(STANDARD) $(OPTIMIZE) $(WARNINGS) -shared -fPIC -fvisibility=hidden -iquote core $(PKG_CFLAGS) -o $@ $(KIT_SOURCES) \
	    $(GENERATED) $(filter -lhiredis%,$(PKG_LIBS))
$(BUILD_ROOT)/lua/wayside/test.lua: core/runtime/test.lua
	@mkdir -p $(@D)
	@cp $< $@
$(BUILD_ROOT)/bench/%: tests/bench/%.c $(BUILD)/flags $(LIB)
	@mkdir -p $(@D)
	@$(CC) $(ALL_CFLAGS) $(ALL_LDFLAGS) -o $@ $< $(LIB) $(LIBS)

SPECS := $(sort $(wildcard tests/policies/*_spec.lua) $(wildcard tests/runtime/*_spec.lua))
E2E_SPECS := $(sort $(wildcard tests/e2e/*_spec.lua))
# These are run against the sanitizers' binaries too: every command's way, every phase's failure, nonsense; and, but for
# QUICK=1, many clients, and all threads at once.
# (Not the phases under TSan: it makes the daemon so slow that deadlines are missed.)
SMOKE := serve bad_input $(if $(filter tsan,$(VARIANT)),,phases) $(if $(QUICK),,isolation together)
SMOKE_SPECS := $(filter $(SMOKE:%=tests/e2e/%_spec.lua),$(E2E_SPECS))

# gcc's TSan can't bear the address layouts of newer kernels.
RUNNER = $(if $(filter tsan,$(VARIANT)),$(shell setarch -R true 2>/dev/null && echo setarch -R)) \
    env WAYSIDE=$(BIN) $(SANITIZER_ENV) $(SUPPORT)/run $(VARIANT:%=--as %) $(RUN_FLAGS)
REPORTS := $(abspath $(BUILD))/report
SANITIZER_ENV = $(if $(SANITIZE_$(VARIANT)),SANITIZER_REPORTS=$(REPORTS) \
    ASAN_OPTIONS=log_path=$(REPORTS):detect_stack_use_after_return=1 \
    UBSAN_OPTIONS=print_stacktrace=1:log_path=$(REPORTS) \
    TSAN_OPTIONS=log_path=$(REPORTS):second_deadlock_stack=1)

test: deps-test
	@$(MAKE) suites
soak: deps-test
	@SOAK=1 TEST_TIMEOUT=$${TEST_TIMEOUT:-14400} $(MAKE) suites
# All that is built is built before anything runs, and nothing else runs beside the suites.
suites:
	@$(MAKE) build lib examples units tools
	@$(RUNNER) $(UNITS) $(SPECS) $(E2E_SPECS)
# QUICK=1: only those in which threads meet, which is all that TSan can tell more of than the others.
THREADED := candidate counters decide decide_shadow gateway health_policy health_stress journal loader loop reload segment spool
SUITES_OF_UNITS = $(if $(QUICK),$(filter $(THREADED:%=$(BUILD)/tests/%_test),$(UNITS)),$(UNITS))
unit-suites:
	@$(MAKE) WERROR=1 $(SUITES_OF_UNITS)
	@$(RUNNER) $(SUITES_OF_UNITS)
smoke-suites:
	@$(MAKE) WERROR=1 build
	@$(MAKE) VARIANT= tools
	@$(RUNNER) $(SMOKE_SPECS)

check: deps-lint
	@+MAKE='$(MAKE)' $(SUPPORT)/check full
bench: deps-bench
	@$(MAKE) build tools $(BENCH_TOOLS)
	@WAYSIDE=$(BIN) exec luajit tests/bench/run.lua
bench-gateway: deps-test
	@$(MAKE) build lib tools $(BENCH_TOOLS)
	@WAYSIDE=$(BIN) BENCH_DIR=$${BENCH_DIR:-$(BUILD_ROOT)/bench} exec luajit tests/bench/gateway.lua
bench-route: deps-bench
	@$(MAKE) build tools
	@WAYSIDE=$(BIN) exec luajit tests/bench/route.lua
bench-faults: deps-test
	@$(MAKE) build
	@mkdir -p $(BUILD_ROOT)/bench
	@WAYSIDE=$(BIN) BENCH_DIR=$${BENCH_DIR:-$(BUILD_ROOT)/bench} exec luajit tests/bench/faults.lua

# --- fuzzing: a few seconds each, from the corpus of tests/fuzz/corpus/NAME ----------------------------
FUZZ_SECONDS ?= 10
fuzz: deps-lint
	@$(MAKE) run-fuzzers
run-fuzzers: $(FUZZERS)
	@$(SUPPORT)/fuzz $(FUZZ_SECONDS) $(FUZZERS)
$(BUILD_ROOT)/fuzz/%: tests/fuzz/%.c $(SOURCES) $(HEADERS) $(GENERATED)
	@mkdir -p $(@D)
	@echo "fuzz  $<"
	@clang $(STANDARD) -O1 -g $(WARNINGS) -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -iquote core \
	    $(PKG_CFLAGS) -Wl,--as-needed -o $@ $< $$(luajit $(SUPPORT)/layers closure $< | \
	    sed -e 's,.*,core/&.c,' -e 's,core/runtime_files.c,$(GENERATED),') $(LIBS)

# --- lint ----------------------------------------------------------------------------------------------
C_FILES := $(SOURCES) $(HEADERS) $(UNIT_SOURCES) $(FUZZ_SOURCES) \
    $(wildcard tests/support/*.c tests/support/preload/*.c tests/bench/*.c examples/*.c)
LUA_FILES := $(wildcard core/runtime/*.lua core/runtime/*/*.lua policies/*.lua tests/*/*.lua examples/*.lua)
lint: deps-lint
	@$(MAKE) -k lint-all
lint-all: lint-layers lint-format lint-gcc lint-clang lint-cppcheck lint-lua lint-tidy
lint-layers:
	@luajit $(SUPPORT)/layers check
lint-format:
	@clang-format --dry-run -Werror $(C_FILES)
format:
	@clang-format -i $(C_FILES)
lint-gcc lint-clang:
	@$(MAKE) CC=$(@:lint-%=%) VARIANT=$(@:lint-%=%) WERROR=1 build units
lint-tidy: $(SOURCES:core/%.c=$(BUILD_ROOT)/tidy/%)
$(BUILD_ROOT)/tidy/%: core/%.c $(HEADERS) .clang-tidy
	@mkdir -p $(@D)
	@clang-tidy --quiet --warnings-as-errors='*' $< -- $(STANDARD) $(WARNINGS) -iquote core $(PKG_CFLAGS) 2>$@.err || \
	    { grep -v 'warnings generated' $@.err; exit 1; }
	@touch $@
lint-cppcheck:
	@mkdir -p $(BUILD_ROOT)/cppcheck
	@cppcheck --quiet --error-exitcode=1 --std=c11 --enable=warning,performance,portability --inline-suppr \
	    --suppressions-list=$(SUPPORT)/cppcheck.txt --cppcheck-build-dir=$(BUILD_ROOT)/cppcheck -D_GNU_SOURCE -Icore $(SOURCES)
lint-lua:
	@luacheck --no-color --quiet --codes $(LUA_FILES)

# --- installing ----------------------------------------------------------------------------------------
install: all
	@$(MAKE) lib $(KIT)
	install -D -m 755 $(BIN) $(DESTDIR)$(PREFIX)/bin/wayside
	install -D -m 644 core/runtime/resty/wayside.lua $(DESTDIR)$(PREFIX)/share/lua/5.1/resty/wayside.lua
	install -D -m 644 core/wayside.h $(DESTDIR)$(PREFIX)/include/wayside.h
	install -D -m 644 $(SHARED) $(DESTDIR)$(LIBDIR)/$(notdir $(SHARED))
	ln -sf $(notdir $(SHARED)) $(DESTDIR)$(LIBDIR)/libwayside.so
	install -D -m 644 $(STATIC) $(DESTDIR)$(LIBDIR)/libwayside.a
	install -D -m 644 $(BUILD)/lib/wayside.pc $(DESTDIR)$(LIBDIR)/pkgconfig/wayside.pc
	$(foreach page,$(wildcard core/*.1),install -D -m 644 $(page) $(DESTDIR)$(MANDIR)/man1/$(notdir $(page));)
	$(foreach page,$(wildcard core/*.5),install -D -m 644 $(page) $(DESTDIR)$(MANDIR)/man5/$(notdir $(page));)
	install -D -m 755 $(BUILD_ROOT)/lua/wayside/test_host.so $(DESTDIR)$(LUA_CDIR)/wayside/test_host.so
	install -D -m 644 core/runtime/test.lua $(DESTDIR)$(LUA_DIR)/wayside/test.lua
	$(foreach file,$(wildcard policies/*.lua),install -D -m 644 $(file) $(DESTDIR)$(PREFIX)/share/wayside/policies/$(notdir $(file));)

clean:
	rm -rf $(BUILD_ROOT) $(OUT)/bin

-include $(wildcard $(BUILD)/pic/*.d $(BUILD)/core/*.d $(BUILD)/tests/*.d)
