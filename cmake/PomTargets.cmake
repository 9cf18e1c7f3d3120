# The three kinds of target: a folder's library, a unit test, the Python module.
include_guard(GLOBAL)

# Which third-party libraries a floor may see; tools/check_layers.py has the same table
# for the includes.
set(pom_may_link_base threads)
set(pom_may_link_profiles msgpack zlib)
set(pom_may_link_sampler threads)
set(pom_may_link_destinations uv openssl zlib threads)
set(pom_may_link_actions "")
set(pom_may_link_middleware "")
set(pom_may_link_engine threads)

# A source that is listed but not there: a warning while somebody works on it (the layers check
# of `make test` fails), an error where a package is made.
function(pom_check_sources out)
  set(kept "")
  if(pom_dev)
    set(severity WARNING)
  else()
    set(severity FATAL_ERROR)
  endif()
  foreach(source ${ARGN})
    if(EXISTS "${CMAKE_CURRENT_SOURCE_DIR}/${source}")
      list(APPEND kept "${source}")
    else()
      message(${severity} "${CMAKE_CURRENT_SOURCE_DIR}/CMakeLists.txt lists ${source}, which does not exist")
    endif()
  endforeach()
  set(${out} "${kept}" PARENT_SCOPE)
endfunction()

# pom_library(<folder> SOURCES a.c b.c USES base profiles LIBS uv openssl)
# Makes the static library pom_<folder>. USES is transitive, LIBS is private. Without
# sources it is an interface library, so that floors above can already name it.
function(pom_library folder)
  cmake_parse_arguments(arg "" "" "SOURCES;USES;LIBS" ${ARGN})
  if(arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "pom_library(${folder}): unexpected ${arg_UNPARSED_ARGUMENTS}")
  endif()
  list(TRANSFORM arg_USES PREPEND pom_)
  pom_check_sources(sources ${arg_SOURCES})
  if(NOT sources)
    add_library(pom_${folder} INTERFACE)
    target_link_libraries(pom_${folder} INTERFACE pom_flags ${arg_USES})
    return()
  endif()
  add_library(pom_${folder} STATIC ${sources})
  # Not for the extension: CPython's own signatures take char ** and Py_ssize_t where others are meant.
  target_compile_options(pom_${folder} PRIVATE -Wconversion -Wno-sign-conversion -Wwrite-strings)
  target_link_libraries(pom_${folder} PUBLIC pom_flags ${arg_USES})
  foreach(lib ${arg_LIBS})
    if(NOT lib IN_LIST pom_may_link_${folder})
      message(FATAL_ERROR "pom_library(${folder}): may not link ${lib}")
    endif()
    if(lib STREQUAL "threads")
      target_link_libraries(pom_${folder} PRIVATE Threads::Threads)
    else()
      target_link_libraries(pom_${folder} PRIVATE pom::${lib})
    endif()
  endforeach()
endfunction()

# pom_unit_test(<folder> <name> [SOURCES extra.c] [USES pom folders] [LIBS uv ...] [WRAP fn...])
# tests/unit/<folder>/test_<name>.c, linked to pom_<folder> only, plus what it asks for.
# WRAP puts -Wl,--wrap on libc, uv or OpenSSL functions.
function(pom_unit_test folder name)
  cmake_parse_arguments(arg "" "" "SOURCES;USES;LIBS;WRAP" ${ARGN})
  string(REGEX REPLACE "^bindings/" "" folder "${folder}")
  get_filename_component(dir "${name}" DIRECTORY)
  get_filename_component(base "${name}" NAME_WE)
  string(REGEX REPLACE "^test_" "" base "${base}")
  if(dir)
    set(dir "${dir}/")
  endif()
  pom_check_sources(sources ${dir}test_${base}.c)
  if(NOT sources)
    return()
  endif()
  list(APPEND sources ${arg_SOURCES})
  set(target "test_${folder}_${base}")
  list(TRANSFORM arg_USES PREPEND pom_)
  add_executable(${target} ${sources})
  target_link_libraries(${target} PRIVATE pom_${folder} ${arg_USES} pom::cmocka Threads::Threads)
  # cmocka hands every test a void **state that most ignore. A source's options come after the
  # target's, and clang takes the last word.
  set_source_files_properties(${sources} PROPERTIES COMPILE_OPTIONS -Wno-unused-parameter)
  foreach(lib ${arg_LIBS})
    target_link_libraries(${target} PRIVATE pom::${lib})
  endforeach()
  foreach(function ${arg_WRAP})
    target_link_options(${target} PRIVATE "-Wl,--wrap=${function}")
  endforeach()
  add_test(NAME ${folder}/${base} COMMAND ${POM_TEST_LAUNCHER} $<TARGET_FILE:${target}>)
  # An absurd size must come back as NULL, as it does from libc, not stop the program.
  set_tests_properties(${folder}/${base} PROPERTIES TIMEOUT 900 ENVIRONMENT
    "ASAN_OPTIONS=allocator_may_return_null=1;UBSAN_OPTIONS=print_stacktrace=1;TSAN_OPTIONS=allocator_may_return_null=1:halt_on_error=1:suppressions=${PROJECT_SOURCE_DIR}/tests/tsan.supp")
endfunction()

# pom_python_module(SOURCES ... USES ...): _core, staged with the package for the tests.
# Nothing is exported but PyInit__core; --as-needed drops libraries nobody calls.
function(pom_python_module)
  cmake_parse_arguments(arg "" "" "SOURCES;USES" ${ARGN})
  list(TRANSFORM arg_USES PREPEND pom_)
  pom_check_sources(sources ${arg_SOURCES})
  set(stage "${PROJECT_BINARY_DIR}/stage/profilomatic")
  # Links are made anew at each build, so that added and removed files show.
  add_custom_target(pom_stage ALL
    COMMAND "${Python_EXECUTABLE}" "${PROJECT_SOURCE_DIR}/tools/stage.py"
      "${PROJECT_SOURCE_DIR}/bindings/profilomatic" "${stage}"
    COMMENT "Staging the package in ${stage}" VERBATIM)
  if(NOT sources)
    message(STATUS "bindings/ext has no sources yet: staging the pure package only")
    return()
  endif()
  Python_add_library(_core MODULE WITH_SOABI ${sources})
  target_include_directories(_core SYSTEM PRIVATE ${Python_INCLUDE_DIRS})
  # Private CPython headers include each other by bare name.
  foreach(dir ${Python_INCLUDE_DIRS})
    target_include_directories(_core SYSTEM PRIVATE "${dir}/internal")
  endforeach()
  target_link_libraries(_core PRIVATE pom_flags ${arg_USES})
  # -z now: a symbol we forgot to link fails at import, not in the middle of a request. -z nodelete:
  # the kernel and libc keep addresses of ours (base/rseq.c, pthread_atfork, keys of threads).
  target_link_options(_core PRIVATE -Wl,--exclude-libs,ALL -Wl,--as-needed -Wl,-z,relro,-z,now,-z,nodelete)
  if(NOT SKBUILD)
    set_target_properties(_core PROPERTIES LIBRARY_OUTPUT_DIRECTORY "${stage}")
  endif()
  install(TARGETS _core DESTINATION profilomatic)
endfunction()
