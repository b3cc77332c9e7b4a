# `cpack` in a build folder makes a Debian package of the program, its manual page, completions and documentation.
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME llmc)
set(CPACK_PACKAGE_CONTACT "llmc maintainers <maintainers@llmc.invalid>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "${PROJECT_DESCRIPTION}")
set(CPACK_PACKAGE_DESCRIPTION "Prunes, quantizes, distills and repacks Transformer checkpoints, re-opens what\nit wrote, and judges it against the original.")
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)  # what the program is linked to, by dpkg-shlibdeps
set(CPACK_STRIP_FILES ON)
install(FILES README.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR} RENAME copyright)
install(DIRECTORY docs/ DESTINATION ${CMAKE_INSTALL_DOCDIR}/docs)
include(CPack)
