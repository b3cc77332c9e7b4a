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

# The manual page too.
set(manual ${CMAKE_BINARY_DIR}/llmc.1)
add_custom_command(TARGET llmc POST_BUILD COMMAND llmc manual > ${manual})
install(FILES ${manual} DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
