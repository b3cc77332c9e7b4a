# Unity builds (CMAKE_UNITY_BUILD=ON) compile several sources as one, which takes a fraction of the time: scripts/ builds so.

# llmc_unity(TARGET SOURCES…): up to eight sources of a folder at a time. Those that are compiled once for each instruction set stay alone.
function(llmc_unity target)
  set_target_properties(${target} PROPERTIES UNITY_BUILD_MODE GROUP)
  foreach(source IN LISTS ARGN)
    file(STRINGS ${source} per_target REGEX HWY_TARGET_INCLUDE LIMIT_COUNT 1)
    if(per_target)
      continue()  # in no group: alone
    endif()
    get_filename_component(folder ${source} DIRECTORY)
    file(RELATIVE_PATH name ${CMAKE_SOURCE_DIR} ${folder})
    string(REPLACE "/" "_" name ${name})
    list(APPEND in_${name} ${source})
    list(LENGTH in_${name} number)
    math(EXPR group "(${number} - 1) / 8")
    set_source_files_properties(${source} PROPERTIES UNITY_GROUP ${name}_${group})
  endforeach()
endfunction()
