# SPDX-License-Identifier: Apache-2.0
# Install and export of the engine (find_package(vmoba), pkg-config), and the Python package.
#   cmake --install BUILD --component dev     --prefix PREFIX          headers, libvmoba.a, CMake and pkg-config files
#   cmake --install BUILD --component python  --prefix SITE_PACKAGES   vmoba/*.py and vmoba/lib/libvmoba_{torch,dit}.so
if(NOT PROJECT_IS_TOP_LEVEL)
  return()  # a project that adds this one installs what it likes
endif()
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

# version.hpp is the one place of the version; the project() line repeats it for CMake's sake.
file(STRINGS ${PROJECT_SOURCE_DIR}/include/vmoba/version.hpp version_line REGEX "version = \"")
string(REGEX REPLACE ".*\"([^\"]+)\".*" "\\1" version_found "${version_line}")
if(NOT version_found STREQUAL PROJECT_VERSION)
  message(FATAL_ERROR "include/vmoba/version.hpp says ${version_found}, CMakeLists.txt says ${PROJECT_VERSION}")
endif()

install(TARGETS vmoba EXPORT vmobaTargets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT dev
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT dev)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/vmoba DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT dev)
set(config_folder ${CMAKE_INSTALL_LIBDIR}/cmake/vmoba)
install(EXPORT vmobaTargets NAMESPACE vmoba:: DESTINATION ${config_folder} COMPONENT dev)
file(WRITE ${PROJECT_BINARY_DIR}/vmobaConfig.cmake
"include(CMakeFindDependencyMacro)
find_dependency(Threads)
include(\"\${CMAKE_CURRENT_LIST_DIR}/vmobaTargets.cmake\")
")
write_basic_package_version_file(${PROJECT_BINARY_DIR}/vmobaConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/vmobaConfig.cmake ${PROJECT_BINARY_DIR}/vmobaConfigVersion.cmake
        DESTINATION ${config_folder} COMPONENT dev)
file(RELATIVE_PATH pc_to_prefix /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
configure_file(${CMAKE_CURRENT_LIST_DIR}/vmoba.pc.in ${PROJECT_BINARY_DIR}/vmoba.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/vmoba.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT dev)

if(VMOBA_TORCH)
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/python/vmoba DESTINATION . COMPONENT python
          PATTERN "__pycache__" EXCLUDE PATTERN "*.so" EXCLUDE)
  # Their RPATH is $ORIGIN: libtorch is already in the process when Python loads them.
  install(TARGETS vmoba_torch vmoba_dit LIBRARY DESTINATION vmoba/lib COMPONENT python)
endif()
