# Shell completions come from the built program itself, so they cannot drift from its flags.
set(completions ${CMAKE_BINARY_DIR}/completions)
add_custom_command(
  TARGET llmc POST_BUILD
  COMMAND ${CMAKE_COMMAND} -E make_directory ${completions}
  COMMAND llmc completions bash > ${completions}/llmc
  COMMAND llmc completions zsh > ${completions}/_llmc
  COMMAND llmc completions fish > ${completions}/llmc.fish)
install(FILES ${completions}/llmc DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)
install(FILES ${completions}/_llmc DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/site-functions)
install(FILES ${completions}/llmc.fish DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d)

# The manual page too; it and the changelog are compressed, as Debian's policy asks (12.1, 12.7).
set(manual ${CMAKE_BINARY_DIR}/llmc.1)
find_program(GZIP_PROGRAM gzip REQUIRED)
add_custom_command(
  TARGET llmc POST_BUILD
  COMMAND llmc manual > ${manual}
  COMMAND ${GZIP_PROGRAM} -9nc ${manual} > ${manual}.gz
  COMMAND ${GZIP_PROGRAM} -9nc ${CMAKE_SOURCE_DIR}/CHANGELOG.md > ${CMAKE_BINARY_DIR}/changelog.gz)
install(FILES ${manual}.gz DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
install(FILES ${CMAKE_BINARY_DIR}/changelog.gz DESTINATION ${CMAKE_INSTALL_DOCDIR})
