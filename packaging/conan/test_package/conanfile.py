"""A host that is built with the package, and run: the loop of a trainer without a model."""

import os

from conan import ConanFile
from conan.tools.build import can_run
from conan.tools.cmake import CMake, cmake_layout


class Host(ConanFile):
    """examples/04_host_loop.c."""

    settings = "os", "arch", "compiler", "build_type"
    generators = "CMakeDeps", "CMakeToolchain"

    def requirements(self):
        """The package that was made."""
        self.requires(self.tested_reference_str)

    def layout(self):
        """Folders as CMake has them."""
        cmake_layout(self)

    def build(self):
        """By CMake."""
        cmake = CMake(self)
        cmake.configure()
        cmake.build()

    def test(self):
        """Runs it, where this machine can."""
        if can_run(self):
            self.run(os.path.join(self.cpp.build.bindir, "host"), env="conanrun")
