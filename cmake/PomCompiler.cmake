# Compiler flags shared by every target, carried by the interface target pom_flags.
include_guard(GLOBAL)

set(CMAKE_C_STANDARD 11)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS ON) # gnu11: futex and friends
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_C_VISIBILITY_PRESET hidden)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

add_library(pom_flags INTERFACE)
target_include_directories(pom_flags INTERFACE "${PROJECT_SOURCE_DIR}")
target_compile_definitions(pom_flags INTERFACE "POM_VERSION=\"${PROJECT_VERSION}\"")
target_compile_options(pom_flags INTERFACE
  -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith
  -Wvla -Wundef -fno-semantic-interposition -fno-strict-aliasing)
# A request that comes after a millisecond of the application's finds our code out of the cache:
# without the table of jumps to other libraries a tenth less of it is fetched (callgrind's I1).
target_compile_options(pom_flags INTERFACE -fno-plt)
if(POM_WERROR)
  target_compile_options(pom_flags INTERFACE -Werror)
endif()

# CMake's RelWithDebInfo and Release already say -O2 -g and -O3; one level for both keeps
# the benches and the wheels the same program.
set(CMAKE_C_FLAGS_RELEASE "-O2 -DNDEBUG")
set(CMAKE_C_FLAGS_RELWITHDEBINFO "-O2 -g -DNDEBUG")
set(CMAKE_C_FLAGS_DEBUG "-O1 -g")

if(POM_SANITIZE STREQUAL "address")
  set(pom_sanitize_flags -fsanitize=address,undefined -fno-sanitize-recover=all)
elseif(POM_SANITIZE STREQUAL "thread")
  set(pom_sanitize_flags -fsanitize=thread)
elseif(NOT POM_SANITIZE STREQUAL "")
  message(FATAL_ERROR "POM_SANITIZE must be empty, 'address' or 'thread', not '${POM_SANITIZE}'")
endif()
if(pom_sanitize_flags)
  # gcc does not model fences under ThreadSanitizer and says so; that alone is no fault.
  if(POM_SANITIZE STREQUAL "thread" AND CMAKE_C_COMPILER_ID STREQUAL "GNU")
    target_compile_options(pom_flags INTERFACE -Wno-error=tsan)
  endif()
  target_compile_options(pom_flags INTERFACE ${pom_sanitize_flags} -fno-omit-frame-pointer)
  target_link_options(pom_flags INTERFACE ${pom_sanitize_flags})
endif()

if(POM_LTO)
  include(CheckIPOSupported)
  check_ipo_supported(RESULT pom_ipo OUTPUT pom_ipo_why LANGUAGES C)
  if(pom_ipo)
    set(CMAKE_INTERPROCEDURAL_OPTIMIZATION ON)
  else()
    message(WARNING "link-time optimisation is off: ${pom_ipo_why}")
  endif()
endif()
