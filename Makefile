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

PREFIX ?= /usr/local
OUT ?= .
VARIANT ?=

SUPPORT := tests/support
BUILD_ROOT := $(OUT:./=.)/build
BUILD := $(BUILD_ROOT)$(VARIANT:%=/%)
BIN := $(OUT)/bin/wayside$(VARIANT:%=-%)
LIB := $(BUILD)/libwayside.a
of_variant := $(if $(VARIANT), [$(VARIANT)])

# --- compiler and libraries -------------------------------------------------------------------------
PACKAGES := luajit hiredis libcares libmicrohttpd jansson openssl libsystemd
WARNINGS := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes
SANITIZE_asan := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
SANITIZE_tsan := -fsanitize=thread -fno-omit-frame-pointer
OPTIMIZE := $(if $(VARIANT),-O1 -g,-O2 -g)
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

.PHONY: all build lib asan tsan units clean help FORCE
all:
	@$(SUPPORT)/install.sh --check build
	@$(MAKE) build

build: $(BIN)
lib: $(LIB)
asan tsan:
	@$(MAKE) VARIANT=$@ WERROR=1 build units

$(BIN): $(BUILD)/core/main.o $(LIB) $(BUILD)/flags
	@mkdir -p $(@D)
	@echo "link  $@"
	@$(CC) $(ALL_LDFLAGS) -o $@ $(BUILD)/core/main.o $(LIB) $(LIBS)

$(LIB): $(LIB_OBJECTS)
	@rm -f $@
	@ar rcs $@ $^

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
$(BUILD_ROOT)/embedded: FORCE
	$(call remember,$(EMBEDDED) none)

# --- unit tests -------------------------------------------------------------------------------------
# A test links its module and what that includes, directly or not, and nothing above it: the link proves
# the layering. tests/support/layers prints one word for each test: TEST=MODULE,MODULE,...
ifneq ($(UNIT_SOURCES),)
LINKS := $(shell command -v luajit >/dev/null && luajit $(SUPPORT)/layers links $(UNIT_SOURCES))
comma := ,
define unit_rule
$(BUILD)/tests/$(1): $(BUILD)/tests/$(1).o $(patsubst %,$(BUILD)/core/%.o,$(subst $(comma), ,$(2)))
	@$$(CC) $$(ALL_LDFLAGS) -o $$@ $$^ -lcmocka $$(LIBS)
endef
$(foreach link,$(LINKS),$(eval $(call unit_rule,$(firstword $(subst =, ,$(link))),$(word 2,$(subst =, ,$(link))))))
endif
units: $(UNITS)

clean:
	rm -rf $(BUILD_ROOT) $(OUT)/bin

-include $(wildcard $(BUILD)/core/*.d $(BUILD)/tests/*.d)
