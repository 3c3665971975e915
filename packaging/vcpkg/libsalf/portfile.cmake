# An overlay port of the checkout in which it lies: vcpkg install libsalf --overlay-ports=packaging/vcpkg
get_filename_component(SOURCE_PATH "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
vcpkg_check_features(OUT_FEATURE_OPTIONS options FEATURES files SALF_FILES)
set(blas plain)
if("blas" IN_LIST FEATURES)
  set(blas All) # of any vendor, and an error where there is none
endif()
vcpkg_cmake_configure(SOURCE_PATH "${SOURCE_PATH}" OPTIONS ${options} -DSALF_BLAS=${blas})
vcpkg_cmake_install()
vcpkg_cmake_config_fixup(PACKAGE_NAME salf CONFIG_PATH lib/cmake/salf)
vcpkg_fixup_pkgconfig()
file(REMOVE_RECURSE "${CURRENT_PACKAGES_DIR}/debug/include")
vcpkg_install_copyright(FILE_LIST "${SOURCE_PATH}/LICENSE")
file(INSTALL "${CMAKE_CURRENT_LIST_DIR}/usage" DESTINATION "${CURRENT_PACKAGES_DIR}/share/${PORT}")
