# SPDX-License-Identifier: Apache-2.0
"""VMoBA in other people's models. Import the one you need: vmoba.integrations.diffusers."""
