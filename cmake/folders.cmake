# llmc_folder(NAME LIBRARIES …): the folder's sources as one static library, llmc::NAME.
function(llmc_folder name)
  cmake_parse_arguments(ARG "" "" "LIBRARIES" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/${name}/*.cc ${CMAKE_SOURCE_DIR}/${name}/arch/*.cc
       ${CMAKE_SOURCE_DIR}/${name}/codecs/*.cc ${CMAKE_SOURCE_DIR}/${name}/gguf/*.cc ${CMAKE_SOURCE_DIR}/${name}/observers/*.cc
       ${CMAKE_SOURCE_DIR}/${name}/commands/*.cc)
  add_library(llmc_${name} STATIC ${sources})
  llmc_unity(llmc_${name} ${sources})
  add_library(llmc::${name} ALIAS llmc_${name})
  target_link_libraries(llmc_${name} PUBLIC ${ARG_LIBRARIES} PRIVATE llmc::options)
endfunction()
