"""libsalf for Conan 2, from the checkout in which this file lies: conan create packaging/conan"""

import os
import re

from conan import ConanFile
from conan.errors import ConanInvalidConfiguration
from conan.tools.cmake import CMake, CMakeToolchain, cmake_layout
from conan.tools.files import copy, load, rmdir

CHECKOUT = os.path.join(os.pardir, os.pardir)


class Salf(ConanFile):
    """The library, shared or static; with its own linear algebra, or a BLAS of the system."""

    name = "libsalf"
    description = "Semantic-Aware Layer-Freezing: decides where to fine-tune a language model"
    license = "MIT"
    topics = ("fine-tuning", "layer-freezing", "language-models")
    package_type = "library"
    settings = "os", "arch", "compiler", "build_type"
    options = {"shared": [True, False], "fPIC": [True, False], "files": [True, False], "blas": ["plain", "system"]}
    default_options = {"shared": False, "fPIC": True, "files": True, "blas": "plain"}
    implements = ["auto_shared_fpic"]
    languages = "C"

    def set_version(self):
        """The version of salf.h."""
        header = load(self, os.path.join(self.recipe_folder, CHECKOUT, "include", "salf.h"))
        self.version = ".".join(re.findall(r"^#define SALF_VERSION_(?:MAJOR|MINOR|PATCH) +(\d+)", header, re.MULTILINE))

    def export_sources(self):
        """What CMakeLists.txt reads."""
        for pattern in ("CMakeLists.txt", "LICENSE", "include/*", "libsalf/*", "pkgconfig/*", "bindings/cpp/*"):
            copy(self, pattern, src=os.path.join(self.recipe_folder, CHECKOUT), dst=self.export_sources_folder)

    def config_options(self):
        """Windows has no files of checkpoints, and no code that depends on its place."""
        if self.settings.os == "Windows":
            self.options.files = False
            del self.options.fPIC

    def validate(self):
        """Names what cannot be built."""
        if self.settings.arch in ("x86", "armv7", "armv7hf"):
            raise ConanInvalidConfiguration(f"libsalf needs 64 bits, not {self.settings.arch}")
        if self.settings.compiler == "msvc":
            raise ConanInvalidConfiguration("libsalf is C11 with the extensions of gcc and clang, not for msvc")
        if self.settings.os == "Windows" and self.options.files:
            raise ConanInvalidConfiguration("libsalf reads no files on Windows: files=False")
        if self.options.blas == "system" and not self.options.shared:
            raise ConanInvalidConfiguration("blas=system needs shared=True, since a static library does not carry its BLAS")

    def layout(self):
        """Folders as CMake has them."""
        cmake_layout(self)

    def generate(self):
        """What CMakeLists.txt is told. All: a BLAS of any vendor, and an error where there is none."""
        toolchain = CMakeToolchain(self)
        toolchain.cache_variables["SALF_BLAS"] = "All" if self.options.blas == "system" else "plain"
        toolchain.cache_variables["SALF_FILES"] = bool(self.options.files)
        toolchain.generate()

    def build(self):
        """By CMake."""
        cmake = CMake(self)
        cmake.configure()
        cmake.build()

    def package(self):
        """Conan writes the files of CMake and pkg-config for its own users."""
        copy(self, "LICENSE", src=self.source_folder, dst=os.path.join(self.package_folder, "licenses"))
        CMake(self).install()
        rmdir(self, os.path.join(self.package_folder, "lib", "cmake"))
        rmdir(self, os.path.join(self.package_folder, "lib", "pkgconfig"))

    def package_info(self):
        """find_package(salf) and salf::salf, as libsalf's own."""
        self.cpp_info.libs = ["salf"]
        self.cpp_info.set_property("cmake_file_name", "salf")
        self.cpp_info.set_property("cmake_target_name", "salf::salf")
        self.cpp_info.set_property("pkg_config_name", "salf")
        if self.settings.os in ("Linux", "FreeBSD") and not self.options.shared:
            self.cpp_info.system_libs = ["m", "pthread", "dl"]
