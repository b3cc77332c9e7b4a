# llmc_embed(TARGET NAME FILE): adds `extern const char llmc_embedded_NAME[]` and `…_size` with the bytes of FILE.
function(llmc_embed target name file)
  set(source ${CMAKE_BINARY_DIR}/embedded/${name}.cc)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${file})
  file(READ ${file} hex HEX)
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "'\\\\x\\1'," bytes "${hex}")
  string(REGEX REPLACE "(('[^']*',){24})" "\\1\n" bytes "${bytes}")
  file(CONFIGURE OUTPUT ${source} CONTENT
"#include <cstddef>
extern const char llmc_embedded_${name}[];
extern const std::size_t llmc_embedded_${name}_size;
const char llmc_embedded_${name}[] = {
@bytes@
0};
const std::size_t llmc_embedded_${name}_size = sizeof(llmc_embedded_${name}) - 1;
" @ONLY)
  target_sources(${target} PRIVATE ${source})
endfunction()
